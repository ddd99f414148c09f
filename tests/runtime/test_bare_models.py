"""Models without a card, as Triton's users have them: over the Open Inference Protocol, with a completed config."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import helper, parser
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from lectern import Client, LecternError
from lectern.v1 import model_pb2
from tests.conftest import EXPORTED, Server, serving
from tests.waiting import wait_until

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
own (float[N, 3] x, int64[N, 1] k) => (float[N, 3] y) {
    f = Cast <to = 1> (k)
    y = Mul (x, f)
}
"""
ONE = GRAPH.replace("N, ", "1, ")
WORDS = '<ir_version: 10, opset_import: ["" : 20]> own (string[N] x) => (string[N] y) { y = Identity (x) }'
CONFIG = """
platform: "onnxruntime_onnx"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 3 }
input { name: "k" data_type: TYPE_INT64 dims: 1 }
"""


def add(repository: Path, graph: str = GRAPH, config: str = "", *, name: str = "own", age: float = 60) -> Path:
    path = repository / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(parser.parse_model(graph).SerializeToString())
    os.utime(path, (time.time() - age, time.time() - age))
    if config:
        (repository / name / "config.pbtxt").write_text(config)
    return path


def multiply(server: Server, rows: int, name: str = "own") -> list[list[float]]:
    x, k = np.ones((rows, 3), np.float32), np.full((rows, 1), 2, np.int64)
    inputs = [InferInput("x", [rows, 3], "FP32"), InferInput("k", [rows, 1], "INT64")]
    for tensor, values in zip(inputs, (x, k), strict=True):
        tensor.set_data_from_numpy(values)
    with InferenceServerClient(server.target) as client:
        answer: list[list[float]] = client.infer(name, inputs).as_numpy("y").tolist()
    return answer


def state(server: Server, name: str = "own") -> tuple[int, str]:
    with Client(server.target) as client:
        (model,) = [m for m in client.list_models().models if m.name == name]
    return model.versions[0].state, model.versions[0].reason


@pytest.mark.parametrize(
    ("graph", "config", "rows", "batch"), [(GRAPH, "", 5, 32), (GRAPH, CONFIG, 3, 4), (ONE, "", 1, 0)]
)
def test_a_graph_without_a_card_answers_the_open_protocol(
    tmp_path: Path, graph: str, config: str, rows: int, batch: int
) -> None:
    add(tmp_path / "models", graph, config)
    shutil.copytree(EXPORTED / "covid_regressor", tmp_path / "models" / "covid_regressor")
    with serving(tmp_path, repository=tmp_path / "models") as server:
        assert multiply(server, rows) == [[2.0] * 3] * rows
        with InferenceServerClient(server.target) as client:
            assert client.is_server_ready()
            shown = client.get_model_config("own").config
            assert (shown.max_batch_size, shown.backend) == (batch, "onnxruntime")
            assert [list(tensor.dims) for tensor in shown.input] == ([[3], [1]] if batch else [[1, 3], [1, 1]])
        with Client(server.target) as client, pytest.raises(LecternError, match="has no card") as caught:
            client.predict([[0.0] * 116], model="own")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_pod_of_one_capability_does_not_load_what_has_no_card(tmp_path: Path) -> None:
    add(tmp_path / "models")
    shutil.copytree(EXPORTED / "covid_regressor", tmp_path / "models" / "covid_regressor")
    with serving(tmp_path, "predict", repository=tmp_path / "models") as server, Client(server.target) as client:
        assert [m.name for m in client.list_models().models] == ["covid_regressor"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_bytes(parser.parse_model(WORDS).SerializeToString()), "STRING, which is not served"),
        (lambda p: p.write_bytes(p.read_bytes()[:60]), "not an ONNX model"),
        (lambda p: p.write_bytes(b""), "not an ONNX model"),
        (lambda p: (p.parents[1] / "config.pbtxt").write_text('backend: "python"'), "'python'"),
        (lambda p: (p.parents[1] / "config.pbtxt").write_text('platform: "tensorrt_plan"'), "'tensorrt_plan'"),
    ],
    ids=["strings", "cut", "empty", "another backend", "another platform"],
)
def test_what_cannot_be_served_says_why(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(path := add(tmp_path / "models"))
    os.utime(path, (0, 0))
    with serving(tmp_path, repository=tmp_path / "models") as server:
        unavailable, why = state(server)
        assert unavailable == model_pb2.MODEL_STATE_UNAVAILABLE
        assert reason in why
        with pytest.raises(InferenceServerException, match="does not answer"):
            multiply(server, 1)


def test_a_graph_that_is_still_being_copied_is_not_served(tmp_path: Path) -> None:
    path = add(tmp_path / "models", age=60)
    settings = {"LECTERN_WATCH_SECONDS": "0.1", "LECTERN_STEADY_SECONDS": "3600"}
    with serving(tmp_path, repository=tmp_path / "models", **settings) as server:
        assert "may still be being copied" in state(server)[1]
        os.utime(path, (0, 0))
        wait_until(lambda: state(server)[0] == model_pb2.MODEL_STATE_READY)
        content = parser.parse_model(GRAPH)
        content.graph.node[1].CopyFrom(helper.make_node("Sub", ["x", "f"], ["y"]))
        path.write_bytes(content.SerializeToString())
        os.utime(path, (1, 1))
        wait_until(lambda: multiply(server, 1) == [[-1.0] * 3])


def test_a_model_that_lost_its_card_is_damaged(tmp_path: Path) -> None:
    name = "lunar_lander"
    shutil.copytree(EXPORTED / name, tmp_path / "models" / name)
    with serving(tmp_path, repository=tmp_path / "models", LECTERN_WATCH_SECONDS="0.1") as server:
        (tmp_path / "models" / name / "1" / "card.json").unlink()
        (tmp_path / "models" / name / "2").mkdir()
        wait_until(lambda: "card.json is missing" in state(server, name)[1])
        with Client(server.target) as client:
            assert client.act([[0.0] * 8]).version == 1
