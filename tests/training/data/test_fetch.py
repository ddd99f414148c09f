"""Data sources: verified, cached, and never written outside their directory."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.data.fetch import Debian, FetchError, GitHub, GitHubFiles, Npm, PyPI, unpack_archive

pytestmark = pytest.mark.unit

CONTENT = b"id,value\n1,2\n"
FILE = "owner/repo/data/table.csv"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LECTERN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    path = tmp_path / "mirror" / "github" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return tmp_path / "mirror"


@pytest.fixture
def url(mirror: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(mirror))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def source(sha256: str = hashlib.sha256(CONTENT).hexdigest(), name: str = FILE) -> GitHub:
    return GitHub(name=name, version="0123456789abcdef", sha256=sha256, licence="none")


def test_a_file_comes_from_a_directory_mirror(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LECTERN_MIRROR", str(mirror))
    assert (source().fetch() / "table.csv").read_bytes() == CONTENT


def test_a_file_comes_over_http_once(url: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LECTERN_MIRROR", url)
    first = source().fetch()
    (mirror / "github" / FILE).unlink()
    assert source().fetch() == first
    assert (first / "table.csv").read_bytes() == CONTENT


def test_a_wrong_checksum_names_both_and_leaves_nothing(
    mirror: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LECTERN_MIRROR", str(mirror))
    with pytest.raises(FetchError, match=f"SHA-256 is {hashlib.sha256(CONTENT).hexdigest()}, expected {'0' * 64}"):
        source(sha256="0" * 64).fetch()
    assert list(cache.iterdir()) == []


def test_what_a_mirror_lacks_is_named(url: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LECTERN_MIRROR", str(mirror))
    with pytest.raises(FetchError, match="LECTERN_MIRROR has no file"):
        source(name="owner/repo/nothing.csv").fetch()
    monkeypatch.setenv("LECTERN_MIRROR", url)
    with pytest.raises(FetchError, match="404"):
        source(name="owner/repo/nothing.csv").fetch()


def files(sha256: str) -> GitHubFiles:
    return GitHubFiles(
        name="owner/repo/data",
        version="0123456789abcdef",
        sha256=sha256,
        licence="none",
        files=("table.csv", "more/other file.txt"),
    )


def test_files_of_a_folder_are_one_source_pinned_by_the_sums_of_all(
    url: str, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = mirror / "github" / "owner/repo/data/more/other file.txt"
    other.parent.mkdir()
    other.write_bytes(b"second")
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for content, name in ((CONTENT, "table.csv"), (b"second", "more/other file.txt"))
    )
    pinned = hashlib.sha256(sums.encode()).hexdigest()
    monkeypatch.setenv("LECTERN_MIRROR", str(mirror))
    directory = files(pinned).fetch()
    assert (directory / "table.csv").read_bytes() == CONTENT
    assert (directory / "more" / "other file.txt").read_bytes() == b"second"
    other.write_bytes(b"altered")
    assert files(pinned).fetch() == directory
    monkeypatch.setenv("LECTERN_CACHE", str(mirror / "cache"))
    with pytest.raises(FetchError, match="SHA-256"):
        files(pinned).fetch()


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        (Npm("package", "1.0", "0" * 64, ""), "install Node.js"),
        (PyPI("package", "1.0", "0" * 64, ""), "install pip"),
        (Debian("package", "1.0", "0" * 64, ""), "Debian or Ubuntu"),
    ],
)
def test_a_missing_client_says_what_to_install(
    missing: Npm, says: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FetchError, match=says):
        missing.fetch()
    assert list(cache.iterdir()) == []


def tar_with(member: tarfile.TarInfo, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member, io.BytesIO(b""))
    return path


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    "member", [tarfile.TarInfo("../evil"), tarfile.TarInfo("/../../evil"), link("l", "/etc/passwd")]
)
def test_a_tar_that_leads_out_is_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    (target := tmp_path / "target").mkdir()
    with pytest.raises(FetchError, match="refusing"):
        unpack_archive(tar_with(member, tmp_path / "a.tgz"), target)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["../evil", "/lectern-evil"])
def test_a_zip_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (target := tmp_path / "target").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(FetchError, match="refusing"):
        unpack_archive(tmp_path / "a.zip", target)
    assert list(target.iterdir()) == []


def test_something_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(b"plain")
    with pytest.raises(FetchError, match="not a tar or zip"):
        unpack_archive(tmp_path / "a.tgz", tmp_path)
