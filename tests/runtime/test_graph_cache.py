"""Folded graphs are kept on disk; what is damaged, foreign or writable by others is not used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.runtime import graph_cache, onnx_engine
from services.runtime.config import parse_config
from services.runtime.graph_cache import GraphCache, UnsafeFolderError
from services.runtime.onnx_engine import OnnxEngine
from tests.conftest import EXPORTED

NAME = "covid_regressor_random_gradient"
GRAPH = (EXPORTED / NAME / "1" / "model.onnx").read_bytes()


@pytest.fixture
def cache(tmp_path: Path) -> GraphCache:
    return GraphCache(tmp_path / "cache")


def file_of(cache: GraphCache) -> Path:
    (path,) = cache._folder.iterdir()
    return path


def test_what_is_put_is_what_is_got(cache: GraphCache) -> None:
    assert cache.get(GRAPH) is None
    cache.put(GRAPH, GRAPH)
    assert cache.get(GRAPH) == GRAPH
    assert cache.get(b"another graph") is None
    assert file_of(cache).stat().st_mode & 0o777 == 0o600
    assert cache._folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["altered", "cut", "empty", "external"])
def test_a_damaged_file_is_not_used_and_is_replaced(cache: GraphCache, damage: str) -> None:
    cache.put(GRAPH, b"not a graph" if damage == "external" else GRAPH)
    path = file_of(cache)
    content = path.read_bytes()
    if damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage != "external":
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    assert cache.get(GRAPH) is None
    cache.put(GRAPH, GRAPH)
    assert cache.get(GRAPH) == GRAPH


def test_a_file_that_others_may_write_to_and_a_link_are_not_used(cache: GraphCache, tmp_path: Path) -> None:
    cache.put(GRAPH, GRAPH)
    path = file_of(cache)
    path.chmod(0o622)
    assert cache.get(GRAPH) is None
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get(GRAPH) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.get(GRAPH) is None


@pytest.mark.parametrize("writable", ["cache", "cache/inner"])
def test_a_folder_that_others_may_write_to_or_replace_is_refused(tmp_path: Path, writable: str) -> None:
    folder = tmp_path / "cache" / "inner"
    folder.mkdir(parents=True)
    (tmp_path / writable).chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="other users may write to"):
        GraphCache(folder)


def test_another_release_of_onnx_runtime_and_another_cpu_have_files_of_their_own(
    cache: GraphCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(GRAPH, GRAPH)
    with monkeypatch.context() as patched:
        patched.setattr(graph_cache.onnxruntime, "__version__", "0.0")
        assert cache.get(GRAPH) is None
    monkeypatch.setattr(graph_cache, "_cpu", lambda: "another")
    assert cache.get(GRAPH) is None


def test_the_least_recently_used_files_go_first(cache: GraphCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "MOST_BYTES", int(2.5 * len(GRAPH)))
    names = [b"one", b"two"]
    for i, name in enumerate(names):
        cache.put(name, GRAPH)
        os.utime(cache._path(name), (i, i))
    assert cache.get(b"one") is not None  # which makes it the last used
    cache.put(b"three", GRAPH)
    assert [cache.get(name) is not None for name in (b"one", b"two", b"three")] == [True, False, True]


def test_a_full_disk_fails_no_load(cache: GraphCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graph_cache.os, "fsync", full)
    cache.put(GRAPH, GRAPH)
    assert list(cache._folder.iterdir()) == []


def test_a_cached_graph_answers_as_the_graph_itself(cache: GraphCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_engine, "WORTH_CACHING_SECONDS", 0.0)
    config = parse_config(NAME, (EXPORTED / NAME / "config.pbtxt").read_bytes())
    random = np.random.default_rng(0)
    inputs = {t.name: random.normal(size=(4, *t.shape)).astype(t.dtype) for t in config.inputs}
    answers = []
    for engine in (OnnxEngine("cpu"), OnnxEngine("cpu", cache=cache), OnnxEngine("cpu", cache=cache)):
        graph = engine.load(config, 1, GRAPH)
        try:
            answers.append(graph.run(inputs))
        finally:
            graph.close(10)
    folded = cache.get(GRAPH)
    assert folded is not None
    assert folded != GRAPH
    for answer in answers[1:]:
        assert all(np.array_equal(answers[0][name], array) for name, array in answer.items())
