"""Gradient graphs are loaded by their first call: once, whoever comes meanwhile, and what is wrong with one shows at
the start."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from inference import grpc_service_pb2 as oip
from inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from lectern.v1 import model_pb2
from lectern.v1.model_pb2_grpc import ModelServiceStub
from services.errors import DeadlineExceeded, Unavailable
from services.runtime import lazy_graph
from services.runtime.graph import Array, EngineError
from services.runtime.lazy_graph import LazyGraph
from tests.conftest import Server, serving
from tests.graphs import add_graph, burn_config
from tests.runtime.fakes import graph_config
from tests.waiting import WAIT, wait_until

GRADIENT = "slow_gradient"
CONFIG = burn_config(1)
# `features` float [N, 1] -> the same, after 30 products of 512 x 512 matrices, some milliseconds each.
SLOW = """
<ir_version: 10, opset_import: ["" : 20]>
slow (float[N, 1] features) => (float[N, 1] prediction) {
    rounds = Constant <value = int64 {30}> ()
    true = Constant <value = bool {1}> ()
    nothing = Constant <value = float {0.0}> ()
    begun = Mul (features, nothing)
    first = Add (matrix, begun)
    burnt = Loop (rounds, true, first) <body = body (
        int64 i, bool go, float[512, 512] m
    ) => (bool go_on, float[512, 512] out) {
        go_on = Identity (go)
        product = MatMul (m, matrix)
        out = Tanh (product)
    }>
    sum = ReduceSum <keepdims = 0> (burnt)
    zero = Mul (sum, nothing)
    prediction = Add (features, zero)
}
"""


class Doubles:
    """A graph that is loaded."""

    config, version, provider = graph_config(8), 1, "fake"

    def __init__(self) -> None:
        self.closed = False

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = float("inf"), priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": 2 * inputs["x"]}

    async def healthy(self) -> bool:
        return True

    def close(self, seconds: float) -> None:
        self.closed = True


class Loads:
    """Loads that end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[Future[Doubles]] = []

    def __call__(self) -> Doubles:
        self.begun.append(load := Future())
        return load.result(WAIT)

    def end(self, result: Doubles | Exception) -> None:
        wait_until(lambda: bool(self.begun))
        load = self.begun[-1]
        if isinstance(result, Exception):
            load.set_exception(result)
        else:
            load.set_result(result)


@pytest.fixture
def loads() -> Loads:
    return Loads()


def lazy(load: Callable[[], Doubles], longest_seconds: float = WAIT) -> LazyGraph:
    return LazyGraph(graph_config(8), 1, load, longest_seconds)


def ask(graph: LazyGraph, deadline: float = float("inf")) -> float:
    return float(asyncio.run(graph.infer({"x": np.array([[3.0]])}, deadline))["y"][0, 0])


@pytest.mark.unit
def test_callers_on_several_event_loops_share_one_load(loads: Loads) -> None:
    graph = lazy(loads)
    assert graph.provider == ""
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, graph) for _ in range(7)]
        answers.append(pool.submit(lambda: float(graph.run({"x": np.array([[3.0]])})["y"][0, 0])))
        loads.end(Doubles())
        assert [answer.result(WAIT) for answer in answers] == [6.0] * 8
    assert len(loads.begun) == 1
    assert graph.provider == "fake"
    assert ask(graph) == 6.0


@pytest.mark.unit
def test_a_caller_whose_deadline_passes_or_who_goes_away_ends_no_load(loads: Loads) -> None:
    graph = lazy(loads)
    with pytest.raises(DeadlineExceeded, match="while fake was loaded"):
        ask(graph, time.monotonic() + 0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(graph.infer({"x": np.zeros((1, 1))}), 0.01))
    loads.end(Doubles())
    assert ask(graph) == 6.0
    assert len(loads.begun) == 1


@pytest.mark.unit
def test_no_caller_waits_longer_than_a_load_may_take(loads: Loads) -> None:
    graph = lazy(loads, longest_seconds=0.01)
    for _ in range(2):
        with pytest.raises(Unavailable, match="LECTERN_LOAD_SECONDS"):
            ask(graph)
    loads.end(Doubles())
    wait_until(lambda: graph.provider == "fake")
    assert ask(graph) == 6.0


@pytest.mark.unit
def test_a_load_that_fails_says_why_and_is_tried_again_later(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = lazy(loads)
    threading.Thread(target=loads.end, args=(EngineError("the file is missing"),)).start()
    for _ in range(2):
        with pytest.raises(Unavailable, match="fake cannot be loaded: the file is missing") as failure:
            ask(graph)
        assert failure.value.retry_after == lazy_graph.RETRY_SECONDS
    assert len(loads.begun) == 1
    assert not asyncio.run(graph.healthy())
    monkeypatch.setattr(lazy_graph.time, "monotonic", lambda now=time.monotonic: now() + lazy_graph.RETRY_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, graph)
        wait_until(lambda: len(loads.begun) == 2)
        loads.end(Doubles())
        assert answer.result(WAIT) == 6.0
    assert asyncio.run(graph.healthy())


@pytest.mark.unit
def test_closing_waits_for_the_load_and_closes_what_it_loaded(loads: Loads) -> None:
    graph, loaded = lazy(loads), Doubles()
    with ThreadPoolExecutor(2) as pool:
        answer, closing = pool.submit(ask, graph), None
        wait_until(lambda: bool(loads.begun))
        closing = pool.submit(graph.close, 0)
        wait_until(lambda: graph._closed)
        with pytest.raises(Unavailable, match="is being unloaded"):
            ask(graph)
        assert not closing.done()
        loads.end(loaded)
        closing.result(WAIT)
        assert answer.result(WAIT) == 6.0  # it came before
    assert loaded.closed


@pytest.mark.unit
def test_a_graph_that_nobody_called_closes_at_once(loads: Loads) -> None:
    lazy(loads).close(0)
    assert not loads.begun


def add_slow_model(repository: Path) -> None:
    """The model `slow`, whose graph `gradient` takes a while to warm up."""
    model = parser.parse_model(SLOW)
    matrix = np.random.default_rng(0).normal(0, 0.01, (512, 512)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(matrix, "matrix"))
    add_graph(repository, "slow", quick(), CONFIG)
    content = model.SerializeToString()
    (repository / GRADIENT / "1").mkdir(parents=True)
    (repository / GRADIENT / "1" / "model.onnx").write_bytes(content)
    (repository / GRADIENT / "config.pbtxt").write_text(CONFIG)
    path = repository / "slow" / "1" / "card.json"
    card = json.loads(path.read_text())
    card["graphs"]["gradient"] = GRADIENT
    card["files"][f"{GRADIENT}/1/model.onnx"] = hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(card))


def quick() -> onnx.ModelProto:
    return parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 20]>
    quick (float[N, 1] features) => (float[N, 1] prediction) { prediction = Identity (features) }
    """)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a server that has started once, and has shown that the graph can be loaded."""
    directory = tmp_path_factory.mktemp("first")
    add_slow_model(directory / "repository")
    with predicting(directory, directory / "repository", directory / "cache") as server:
        assert loaded(server) == []
        assert infer(server) == 3.0
    return directory / "cache"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_slow_model(tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def server(tmp_path: Path, repository: Path, cache: Path) -> Iterator[Server]:
    with predicting(tmp_path, repository, cache) as running:
        yield running


def predicting(directory: Path, repository: Path, cache: Path) -> AbstractContextManager[Server]:
    return serving(
        directory,
        "predict",
        repository=repository,
        LECTERN_CACHE_DIR=str(cache),
        LECTERN_ALLOW_MODEL_CONTROL="true",
        LECTERN_WATCH_SECONDS="0.1",
    )


def infer(server: Server, timeout: float = WAIT) -> float:
    """The answer of the graph `gradient` to 3."""
    request = oip.ModelInferRequest(model_name=GRADIENT)
    request.inputs.add(name="features", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.float32(3).tobytes())
    with grpc.insecure_channel(server.target) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=timeout)
    return float(np.frombuffer(response.raw_output_contents[0], np.float32)[0])


def loaded(server: Server) -> list[str]:
    """The loads for a first call, from the log."""
    messages = (str(record["message"]) for record in server.log_records())
    return [message for message in messages if message.startswith(f"loaded {GRADIENT} version 1 for its first call")]


def metrics(server: Server) -> str:
    with urllib.request.urlopen(f"{server.metrics_url}/metrics", timeout=WAIT) as response:
        return str(response.read().decode())


def has_session(server: Server) -> bool:
    return f'lectern_model_info{{engine="onnxruntime",model="{GRADIENT}"' in metrics(server)


def reasons(server: Server) -> dict[int, str]:
    """Why versions of the model do not answer; empty for those that do."""
    with grpc.insecure_channel(server.target) as channel:
        model = ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(model="slow"), timeout=WAIT).model
    return {v.version: "" if v.state == model_pb2.MODEL_STATE_READY else v.reason for v in model.versions}


def test_two_first_callers_share_one_session_and_until_then_there_is_none(server: Server) -> None:
    assert reasons(server) == {1: ""}
    with grpc.insecure_channel(server.target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ModelReady(oip.ModelReadyRequest(name=GRADIENT), timeout=WAIT).ready
        index = stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=WAIT).models
    assert {(model.name, model.state) for model in index} == {("slow", "READY"), (GRADIENT, "READY")}
    assert not has_session(server)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(infer, [server] * 2)) == [3.0, 3.0]
    assert len(loaded(server)) == 1
    assert has_session(server)


def test_a_deadline_that_passes_while_the_graph_loads_leaves_it_to_the_next_caller(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        infer(server, timeout=0.02)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert infer(server) == 3.0
    assert len(loaded(server)) == 1


def test_a_model_that_is_unloaded_while_its_graph_loads_still_answers_who_waits(server: Server) -> None:
    with ThreadPoolExecutor(1) as pool, grpc.insecure_channel(server.target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer = pool.submit(infer, server)
        wait_until(lambda: under_way(server) == 1)
        stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="slow"), timeout=WAIT)
        with pytest.raises(grpc.RpcError) as failure:
            infer(server)
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        assert answer.result(WAIT) == 3.0
        stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="slow"), timeout=WAIT)
    assert infer(server) == 3.0


def under_way(server: Server) -> int:
    """Inferences that have begun and not ended."""
    rpc = 'grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService"'
    lines = [line for line in metrics(server).splitlines() if rpc in line]
    started, handled = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"grpc_server_{name}_total"))
        for name in ("started", "handled")
    )
    return int(started - handled)


def test_a_graph_whose_file_is_damaged_shows_at_the_start(tmp_path: Path, repository: Path, cache: Path) -> None:
    file = repository / GRADIENT / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with predicting(tmp_path, repository, cache) as server:
        assert "SHA-256" in reasons(server)[1]


def test_a_graph_that_cannot_be_loaded_shows_at_the_first_start(tmp_path: Path, repository: Path, cache: Path) -> None:
    path = repository / GRADIENT / "config.pbtxt"
    path.write_text(path.read_text().replace("prediction", "gradient"))
    with predicting(tmp_path, repository, cache) as server:
        assert "disagree on: gradient" in reasons(server)[1]


def test_a_file_that_is_gone_at_the_first_call_is_its_error(server: Server, repository: Path) -> None:
    file = repository / GRADIENT / "1" / "model.onnx"
    file.unlink()
    with pytest.raises(grpc.RpcError) as failure:
        infer(server)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert f"{GRADIENT}/1/model.onnx is missing" in str(failure.value.details())
