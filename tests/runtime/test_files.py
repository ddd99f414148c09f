"""What is read of a repository: regular files inside it, however they are linked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.runtime.files import Folder, RepositoryFiles

pytestmark = pytest.mark.unit

LARGEST = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "model" / "1").mkdir(parents=True)
    (root / "model" / "config.pbtxt").write_text("config")
    (root / "model" / "1" / "model.onnx").write_text("graph")
    (tmp_path / "outside").write_text("secret")
    return root


def files(root: Path) -> RepositoryFiles:
    return RepositoryFiles(root, LARGEST)


def test_a_listing_names_versions_and_files(root: Path) -> None:
    (root / "model" / "not-a-version").mkdir()
    folder = files(root).list().folders["model"]
    assert folder.versions == (1,)
    assert [path for path, *_ in folder.entries] == ["1/model.onnx", "config.pbtxt"]
    assert folder.entries[0][1] == len("graph")


@pytest.mark.parametrize("change", ["content", "time", "replaced", "added"])
def test_a_listing_shows_every_change_of_a_file(root: Path, change: str) -> None:
    graph = root / "model" / "1" / "model.onnx"
    before = files(root).list()
    match change:
        case "content":
            graph.write_text("longer graph")
        case "time":
            os.utime(graph, ns=(1, 1))
        case "replaced":
            status = graph.stat()
            graph.rename(root / "kept")
            graph.write_text("graph")
            os.utime(graph, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "added":
            (graph.parent / "card.json").touch()
    assert files(root).list().folders["model"] != before.folders["model"]


def test_links_as_kubernetes_lays_them_are_followed(root: Path) -> None:
    (root / "model").rename(root / "..data-1")
    (root / "..data").symlink_to("..data-1")
    (root / "model").symlink_to("..data")
    assert files(root).read("model/1/model.onnx") == b"graph"
    before = files(root).list().folders["model"]
    assert before.versions == (1,)
    (root / "..data-2" / "2").mkdir(parents=True)
    (root / "..new").symlink_to("..data-2")
    (root / "..new").rename(root / "..data")  # as the kubelet swaps a ConfigMap
    assert files(root).list().folders["model"].versions == (2,)


def test_the_root_may_be_a_link_that_no_path_resolves(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "models"
    link.symlink_to(f"/proc/{os.getpid()}/root{root}")  # as KServe's modelcar lays it
    assert files(link).read("model/1/model.onnx") == b"graph"
    assert list(files(link).list().folders) == ["model"]


@pytest.mark.parametrize("target", ["../../../outside", "/etc/passwd", "../../../root/../outside"])
def test_a_link_that_leads_out_is_not_followed(root: Path, target: str) -> None:
    (root / "model" / "1" / "link").symlink_to(target)
    with pytest.raises(ValueError, match="leads out of the repository"):
        files(root).read("model/1/link")
    assert "leads out" in files(root).list().folders["model"].problem
    (root / "other").symlink_to(target)
    assert "leads out" in files(root).list().ignored["other"]


def test_a_path_that_leads_out_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="leads out of the repository"):
        files(root).read("model/../../outside")


def test_links_in_a_circle_end(root: Path) -> None:
    (root / "model" / "a").symlink_to("b")
    (root / "model" / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        files(root).read("model/a")


def test_nothing_waits_for_a_fifo(root: Path) -> None:
    os.mkfifo(root / "model" / "1" / "card.json")
    (root / "model" / "2").symlink_to("1/card.json")
    with pytest.raises(ValueError, match="not a regular file"):
        files(root).read("model/1/card.json")
    assert files(root).list().folders["model"].versions == (1,)


def test_a_directory_is_not_a_file(root: Path) -> None:
    with pytest.raises(ValueError, match="not a regular file"):
        files(root).read("model/1")


def test_the_size_is_checked_before_reading(root: Path) -> None:
    with (root / "model" / "1" / "model.onnx").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="1099511627776 bytes; at most 1000"):
        files(root).read("model/1/model.onnx")


def test_a_missing_file_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files(root).read("model/1/card.json")
    assert caught.value.filename == "model/1/card.json"


def test_what_is_no_model_is_ignored_with_a_reason(root: Path) -> None:
    (root / "lost+found").mkdir()
    (root / "README").touch()
    (root / ".staging").mkdir()
    listing = files(root).list()
    assert listing.ignored == {"lost+found": "a model cannot have this name", "README": "it is not a directory"}
    assert list(listing.folders) == ["model"]


def test_descriptors_are_closed(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (root / "model" / "link").symlink_to("/etc/passwd")
    for _ in range(20):
        files(root).list()
        with pytest.raises(ValueError, match="out of"):
            files(root).read("model/link")
    assert len(os.listdir("/proc/self/fd")) == before
    assert files(root).list().folders["model"] != Folder()
