"""A graph whose tensors lie in other files is refused, and the other models keep serving."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import grpc
import pytest

import lectern
from services.runtime.external_data import refuse_external_data
from tests.conftest import EXPORTED, serving
from tests.waiting import WAIT

onnx = pytest.importorskip("onnx")
VICTIM = "image_classifier"


def move_out(tensor: object, location: str) -> None:
    """Say that a tensor's values lie in a file."""
    tensor.data_location = onnx.TensorProto.EXTERNAL  # type: ignore[attr-defined]
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(tensor.raw_data)))):  # type: ignore[attr-defined]
        tensor.external_data.add(key=key, value=value)  # type: ignore[attr-defined]
    tensor.ClearField("raw_data")  # type: ignore[attr-defined]


@pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd", "weights.bin", "exported/weights.bin"])
def test_external_data_takes_the_model_out_and_the_others_serve(
    tmp_path: Path, repository: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = repository / VICTIM / "1"
    model = onnx.load(version / "model.onnx")
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    # Real weights below the server's working directory, which ONNX Runtime itself would read.
    for directory in (tmp_path, repository, version):
        (directory / "weights.bin").write_bytes(tensor.raw_data)
    move_out(tensor, location)
    content = model.SerializeToString()
    (version / "model.onnx").write_bytes(content)
    card = json.loads((version / "card.json").read_text())
    card["files"][f"{VICTIM}/1/model.onnx"] = hashlib.sha256(content).hexdigest()
    (version / "card.json").write_text(json.dumps(card))
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, repository=repository) as server, lectern.Client(server.target, timeout=WAIT) as client:
        (refused,) = client.get_model(VICTIM).model.versions
        assert f"{VICTIM}/1/model.onnx: tensor {tensor.name!r} lies in another file, {location!r}" in refused.reason
        features = json.loads((EXPORTED / "covid_regressor/1/card.json").read_text())["preprocessing"]["features"]
        assert len(client.predict([[0.0] * len(features)]).results) == 1
        with pytest.raises(lectern.LecternError) as caught:
            client.classify_image(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def tensor_of(message: object, path: str) -> object:
    """Make the tensor at a path such as `graph.node.attribute.t`."""
    for name in path.split("."):
        field = message.DESCRIPTOR.fields_by_name[name]  # type: ignore[attr-defined]
        value = getattr(message, name)
        message = value.add() if field.is_repeated else value
    return message


@pytest.mark.parametrize(
    "path",
    [
        "graph.initializer",
        "graph.sparse_initializer.values",
        "graph.sparse_initializer.indices",
        "graph.node.attribute.t",
        "graph.node.attribute.tensors",
        "graph.node.attribute.sparse_tensor.values",
        "graph.node.attribute.sparse_tensors.indices",
        "graph.node.attribute.g.initializer",
        "graph.node.attribute.graphs.node.attribute.g.node.attribute.t",
        "functions.node.attribute.t",
        "functions.attribute_proto.t",
        "training_info.initialization.initializer",
        "training_info.algorithm.node.attribute.t",
    ],
)
def test_wherever_the_tensor_is(path: str) -> None:
    model = onnx.ModelProto()
    tensor = tensor_of(model, path)
    tensor.name, tensor.raw_data = "w", b"1234"  # type: ignore[attr-defined]
    tensor.data_location = onnx.TensorProto.DEFAULT  # type: ignore[attr-defined]
    refuse_external_data(model.SerializeToString())
    move_out(tensor, "../secret")
    with pytest.raises(ValueError, match=r"tensor 'w' lies in another file, '../secret'"):
        refuse_external_data(model.SerializeToString())


@pytest.mark.unit
def test_committed_graphs_hold_their_tensors() -> None:
    graphs = list(EXPORTED.glob("*/*/model.onnx"))
    assert graphs
    for path in graphs:
        refuse_external_data(path.read_bytes())
