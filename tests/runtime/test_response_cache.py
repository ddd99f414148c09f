"""Equal inputs get the answer that was computed before, and no one else does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services import metrics
from services.errors import Unavailable
from services.runtime.config import GraphConfig, parse_config
from services.runtime.graph import Graph
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.response_cache import ENTRY_BYTES, LARGEST_INPUTS, GraphResponses, ResponseCache
from tests.conftest import EXPORTED

NAME = "lunar_lander"
GRAPH = (EXPORTED / NAME / "1" / "model.onnx").read_bytes()
CONFIG = (EXPORTED / NAME / "config.pbtxt").read_bytes()
CACHED = CONFIG + b"\nresponse_cache { enable: true }\n"
Arrays = Mapping[str, np.ndarray[Any, Any]]


def arrays(value: float, rows: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.full((rows, 3), value, np.float32)}


def responses(cache: ResponseCache) -> GraphResponses:
    return GraphResponses(cache, "fake", 1)


def load(cache: ResponseCache | None, config: bytes = CACHED, version: int = 1) -> Graph:
    return OnnxEngine("cpu", responses=cache).load(parse_config(NAME, config), version, GRAPH)


def inputs_of(config: GraphConfig, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    return {t.name: random.normal(size=(3, *t.shape)).astype(t.dtype) for t in config.inputs}


def count(name: str, version: int = 1) -> float:
    metrics.collect_sources()
    labels = {"model": NAME, "version": str(version)}
    return REGISTRY.get_sample_value(f"lectern_{name}_count", labels) or 0.0


def equal(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(arrays(2.0), id="values"),
        pytest.param(arrays(1.0, rows=3), id="rows"),
        pytest.param({"x": arrays(1.0)["x"].reshape(3, 2)}, id="shape"),
        pytest.param({"x": arrays(1.0)["x"].view(np.int32)}, id="type"),
        pytest.param({"y": arrays(1.0)["x"]}, id="name"),
        pytest.param({**arrays(1.0), "y": np.zeros(0, np.float32)}, id="number of inputs"),
    ],
)
def test_inputs_that_differ_have_different_keys(other: dict[str, Any]) -> None:
    known = responses(ResponseCache(10**6))
    known.keep(known.look_up(arrays(1.0))[0], arrays(5.0))
    assert known.look_up(other)[1] is None
    found = known.look_up(arrays(1.0))[1]
    assert found is not None
    assert equal(found, arrays(5.0))


def test_who_alters_an_answer_alters_no_other() -> None:
    known, outputs = responses(ResponseCache(10**6)), arrays(5.0)
    known.keep(known.look_up(arrays(1.0))[0], outputs)
    outputs["x"][:] = 0  # by the first caller
    for _ in range(2):
        answer = known.look_up(arrays(1.0))[1]
        assert answer is not None
        assert equal(answer, arrays(5.0))
        answer["x"][:] = 0


def test_a_graph_that_is_loaded_again_knows_nothing() -> None:
    cache = ResponseCache(10**6)
    old, new = responses(cache), responses(cache)
    old.keep(old.look_up(arrays(1.0))[0], arrays(5.0))
    assert new.look_up(arrays(1.0))[1] is None


def test_the_least_recently_used_answers_give_way() -> None:
    size = ENTRY_BYTES + arrays(0.0)["x"].nbytes
    known = responses(ResponseCache(2 * size))
    for value in (1.0, 2.0):
        known.keep(known.look_up(arrays(value))[0], arrays(value))
    assert known.look_up(arrays(1.0))[1] is not None
    known.keep(known.look_up(arrays(3.0))[0], arrays(3.0))
    assert [known.look_up(arrays(value))[1] is not None for value in (1.0, 2.0, 3.0)] == [True, False, True]


def test_an_answer_larger_than_the_cache_and_large_inputs_are_not_kept() -> None:
    known = responses(ResponseCache(10**4))
    known.keep(known.look_up(arrays(1.0))[0], arrays(1.0, rows=10**4))
    assert known.look_up(arrays(1.0))[1] is None
    large = {"x": np.zeros(LARGEST_INPUTS + 1, np.uint8)}
    key, _ = known.look_up(large)
    assert key is None
    known.keep(key, arrays(1.0))
    assert known.look_up(large) == (None, None)


def test_a_graph_runs_once_for_equal_inputs_and_counts_both_requests() -> None:
    graph = load(ResponseCache(10**6))
    inputs = inputs_of(graph.config, 0)
    names = ("inference_seconds", "graph_request_seconds", "cache_hit_seconds", "cache_miss_seconds")
    before = {name: count(name) for name in names}
    try:
        first, second = asyncio.run(graph.infer(inputs)), asyncio.run(graph.infer(dict(inputs)))
        third = graph.run(inputs)
    finally:
        graph.close(10)
    assert equal(first, second)
    assert equal(first, third)
    assert [count(name) - before[name] for name in names] == [1, 3, 2, 1]
    with pytest.raises(Unavailable):
        asyncio.run(graph.infer(inputs))


@pytest.mark.parametrize(("total", "config"), [(10**6, CONFIG), (0, CACHED)])
def test_nothing_is_kept_unless_both_server_and_model_say_so(total: int, config: bytes) -> None:
    graph = load(ResponseCache(total) if total else None, config, version=2)
    inputs = inputs_of(graph.config, 0)
    before = count("inference_seconds", version=2)
    try:
        assert equal(asyncio.run(graph.infer(inputs)), asyncio.run(graph.infer(inputs)))
    finally:
        graph.close(10)
    assert count("inference_seconds", version=2) - before == 2
    assert REGISTRY.get_sample_value("lectern_cache_miss_seconds_count", {"model": NAME, "version": "2"}) is None
