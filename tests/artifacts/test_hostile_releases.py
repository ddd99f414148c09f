"""Archives that no `lectern publish` writes: each is refused, and nothing of it is to be seen."""

from __future__ import annotations

import gzip
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.pull import pull
from artifacts.release import MANIFEST_BYTES, ReleaseError, publish
from tests.artifacts.releasing import MODEL, entry, forge, manifest_of, members, visible
from tests.conftest import EXPORTED
from tests.lectern.test_cli import invoke, refused

MOST = 2**30
CONFIG = b'name: "m"\n'
FILES = {"m/config.pbtxt": CONFIG, "m/1/card.json": b"{}"}
GOOD = [entry(path, content) for path, content in FILES.items()]
HEAD = manifest_of(FILES)
Entries = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("small") / "model.tar"
    publish(EXPORTED / MODEL, archive, "a test")
    return archive


def listed(path: str, content: bytes = b"x") -> Entries:
    """An archive whose manifest lists this path beside a good model."""
    return [manifest_of(FILES | {path: content}), *GOOD, entry(path, content)]


# Archive -> a word of the error.
ARCHIVES: dict[str, tuple[Entries, str]] = {
    "no_manifest": (GOOD, "where the file manifest.json is to be"),
    "manifest_last": ([*GOOD, HEAD], "where the file manifest.json is to be"),
    "two_manifests": ([HEAD, HEAD, *GOOD], "where the file m/config.pbtxt is to be"),
    "parent": (listed("../escaped"), "its manifest is not valid"),
    "parent_inside": (listed("m/../../escaped"), "its manifest is not valid"),
    "dots": (listed("m/1/.."), "its manifest is not valid"),
    "absolute": (listed("/escaped"), "its manifest is not valid"),
    "hidden": (listed("m/1/.profile"), "its manifest is not valid"),
    "deep": (listed("m/1/2/3"), "its manifest is not valid"),
    "backslash": (listed("m\\1\\x"), "its manifest is not valid"),
    "newline": (listed("m/1/x\n"), "its manifest is not valid"),
    "control_characters": (listed("\x1b[2J"), "its manifest is not valid"),
    "other_folder": (listed("n/1/model.onnx"), "files must be those of the models' folders"),
    "no_card": ([manifest_of({"m/config.pbtxt": CONFIG, "m/1/x": b""}), *GOOD], "must hold the card of m/1"),
    "no_configuration": ([manifest_of({"m/1/card.json": b"{}"}), *GOOD], "files must be those"),
    "no_model": ([manifest_of(FILES, models=[]), *GOOD], "its manifest is not valid"),
    "another_format": ([manifest_of(FILES, format=2), *GOOD], "its manifest is not valid: format"),
    "unknown_field": ([manifest_of(FILES, run="sh"), *GOOD], "its manifest is not valid: run"),
    "no_json": ([entry("manifest.json", b"\xff{"), *GOOD], "its manifest is not valid"),
    "deep_json": ([entry("manifest.json", b"[" * 100_000), *GOOD], "its manifest is not valid"),
    "not_a_card": ([HEAD, *GOOD], "the card of m/1 is not valid"),
    "left_out": ([HEAD, GOOD[0]], "cut off or damaged before m/1/card.json"),
    "twice": ([HEAD, *GOOD, GOOD[1]], "more in it than its manifest says"),
    "not_listed": ([HEAD, *GOOD, entry("m/1/x")], "more in it than its manifest says"),
    "other_order": ([HEAD, *GOOD[::-1]], "where the file m/config.pbtxt is to be"),
    "altered": ([HEAD, GOOD[0], entry("m/1/card.json", b"[]")], "does not have the SHA-256"),
    "longer": ([HEAD, GOOD[0], entry("m/1/card.json", b"{} ")], "has 3 bytes, its manifest says 2"),
    "symbolic_link": (
        [HEAD, entry("m/config.pbtxt", type=tarfile.SYMTYPE, linkname="/etc/passwd"), GOOD[1]],
        "type b'2'",
    ),
    "hard_link": ([HEAD, entry("m/config.pbtxt", type=tarfile.LNKTYPE, linkname="/etc/passwd"), GOOD[1]], "type b'1'"),
    "device": ([HEAD, entry("m/config.pbtxt", type=tarfile.CHRTYPE, devmajor=1, devminor=5), GOOD[1]], "type b'3'"),
    "fifo": ([HEAD, entry("m/config.pbtxt", type=tarfile.FIFOTYPE), GOOD[1]], "type b'6'"),
    "directory": ([HEAD, entry("m", type=tarfile.DIRTYPE), *GOOD], "type b'5'"),
    "sparse": ([HEAD, entry("m/config.pbtxt", CONFIG, type=tarfile.GNUTYPE_SPARSE), GOOD[1]], "type b'S'"),
    "huge_in_manifest": (
        [manifest_of(FILES, files={p: {"sha256": "0" * 64, "size": 10**18} for p in FILES}), *GOOD],
        "bytes; at most",
    ),
    "many_files": ([manifest_of(FILES | {f"m/1/{n}": b"" for n in range(10_001)}), *GOOD], "its manifest is not valid"),
}


@pytest.mark.unit
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_forged_archive_is_refused(name: str, tmp_path: Path) -> None:
    entries, word = ARCHIVES[name]
    archive, repository = forge(tmp_path / "forged.tar", entries), tmp_path / "there"
    with pytest.raises(ReleaseError) as refusal:
        pull(str(archive), repository, MOST)
    assert "forged.tar is not taken: " in str(refusal.value)
    assert word in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000
    assert_nothing_is_left(repository, tmp_path)


def assert_nothing_is_left(repository: Path, around: Path) -> None:
    assert {path.name for path in repository.iterdir()} == {".pull.lock"}
    assert {path.name for path in around.iterdir()} == {"forged.tar", "there"}


def with_size(content: bytes, size: int) -> bytes:
    """An archive whose first header declares another size."""
    header = tarfile.TarInfo.frombuf(content[:512], "ascii", "strict")
    header.size = size
    return header.tobuf(tarfile.GNU_FORMAT) + content[512:]


def first_header(kind: int) -> bytes:
    """Extended headers, which tar reads into memory, of 8 GiB."""
    header = tarfile.TarInfo("manifest.json")
    header.type, header.size = (tarfile.XHDTYPE if kind == tarfile.PAX_FORMAT else tarfile.GNUTYPE_LONGNAME), 2**33 - 1
    return header.tobuf(tarfile.USTAR_FORMAT) + b"x" * 4096


# What is done to a good archive -> a word of the error.
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "is no release"),
    "zeros": (lambda content: bytes(10240), "is no release"),
    "compressed": (gzip.compress, "is no release"),
    "half_a_header": (lambda content: content[:300], "is no release"),
    "half_a_manifest": (lambda content: content[:700], "is cut off in manifest.json"),
    "half": (lambda content: content[: len(content) // 2], "is cut off in"),
    "huge_manifest": (lambda content: with_size(content, MANIFEST_BYTES + 1), f"at most {MANIFEST_BYTES} are read"),
    "huge_by_extension": (lambda content: with_size(content, 2**62), f"at most {MANIFEST_BYTES} are read"),
    "negative": (lambda content: with_size(content, -512), "its manifest is not valid"),
    "huge_pax_header": (lambda content: first_header(tarfile.PAX_FORMAT) + content, "where the file manifest.json"),
    "huge_long_name": (lambda content: first_header(tarfile.GNU_FORMAT) + content, "where the file manifest.json"),
}


@pytest.mark.unit
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_archive_is_refused(name: str, small: Path, tmp_path: Path) -> None:
    damage, word = DAMAGES[name]
    (archive := tmp_path / "forged.tar").write_bytes(damage(small.read_bytes()))
    with pytest.raises(ReleaseError) as refusal:
        pull(str(archive), tmp_path / "there", MOST)
    assert word in str(refusal.value)
    assert_nothing_is_left(tmp_path / "there", tmp_path)


@pytest.mark.unit
def test_whatever_byte_is_changed_the_models_are_whole_or_not_there(small: Path, tmp_path: Path) -> None:
    """A header has a checksum of its own; padding is read by nobody, so that some changes do no harm."""
    content, chance = small.read_bytes(), random.Random(0)  # noqa: S311
    whole = {path: text for path, text in visible(EXPORTED).items() if path.split("/")[0].startswith(MODEL)}
    headers = [entry.offset for entry, _ in members(small)]
    places = [place + at for place in headers for at in range(0, 512, 37)]
    places += [chance.randrange(len(content)) for _ in range(50)]
    refusals = 0
    for number, place in enumerate(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        (archive := tmp_path / "damaged.tar").write_bytes(damaged)
        repository = tmp_path / str(number)
        try:
            pull(str(archive), repository, MOST)
        except ReleaseError:
            refusals += 1
            assert visible(repository) == {}
        else:
            assert visible(repository) == whole
    assert refusals > len(places) / 2


def test_a_release_is_bounded_by_what_an_operator_says(small: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    refused(invoke("pull", small, "--repository", there, "--most-bytes", 1000), 1, "at most 1000 are taken")
    assert visible(there) == {}
