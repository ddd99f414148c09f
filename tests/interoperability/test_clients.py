"""Clients of other projects, unmodified, against the server of the committed models (docs/interoperability.md)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.conftest import EXPORTED, ROOT, Server, encode
from tests.interoperability.environments import node_modules_with, python_with
from tests.waiting import WAIT

MODEL = "image_classifier"
CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def logits(photos: np.ndarray) -> np.ndarray:
    """What the graph itself says of the first two photos."""
    version = max((EXPORTED / MODEL).glob("[0-9]*"), key=lambda path: int(path.name))
    (answer,) = onnxruntime.InferenceSession(version / "model.onnx").run(["logits"], {"images": photos[:2]})
    return np.asarray(answer)


def run(command: Sequence[str | Path], directory: Path | None = None, **environment: str) -> str:
    variables = os.environ | environment
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, env=variables, cwd=directory)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def answers_of(python: Path, script: str, target: str, photos: np.ndarray, directory: Path) -> Any:
    np.save(directory / "photos.npy", photos)
    # The checkout is no place to import from: there are packages of the same names.
    return json.loads(run([python, CLIENTS / script, target, directory / "photos.npy"], PYTHONPATH=""))


def test_kserves_sdk_sends_its_hints_and_is_answered(
    server: Server, photos: np.ndarray, logits: np.ndarray, tmp_path: Path
) -> None:
    python = python_with("kserve", "kserve==0.21.0")
    answers = answers_of(python, "kserve_client.py", server.target, photos[:2], tmp_path)
    assert (answers["live"], answers["ready"], answers["model_ready"]) == (True, True, True)
    np.testing.assert_allclose(answers["raw"], logits, atol=1e-4)
    np.testing.assert_allclose(answers["typed"], logits, atol=1e-4)


def test_kserves_sdk_is_answered_over_rest(
    server: Server, photos: np.ndarray, logits: np.ndarray, tmp_path: Path
) -> None:
    python = python_with("kserve", "kserve==0.21.0")
    answers = answers_of(python, "kserve_rest_client.py", server.http_url, photos[:2], tmp_path)
    assert (answers["live"], answers["ready"], answers["model_ready"]) == (True, True, True)
    np.testing.assert_allclose(answers["raw"], logits, atol=1e-4)
    np.testing.assert_allclose(answers["typed"], logits, atol=1e-4)


def test_mlservers_codecs_send_their_hints_and_are_answered(
    server: Server, photos: np.ndarray, logits: np.ndarray, tmp_path: Path
) -> None:
    python = python_with("mlserver", "mlserver==1.7.1")
    answers = answers_of(python, "mlserver_client.py", server.target, photos[:2], tmp_path)
    assert answers["metadata"] == MODEL
    assert answers["content_type"] == "np"
    np.testing.assert_allclose(answers["raw"], logits, atol=1e-4)
    np.testing.assert_allclose(answers["typed"], logits, atol=1e-4)


def test_nodes_grpc_js_finds_every_service_by_reflection_and_calls_them(
    server: Server, photos: np.ndarray, logits: np.ndarray, tmp_path: Path
) -> None:
    modules = node_modules_with("grpc-js", "@grpc/grpc-js@1.14.7", "grpc-js-reflection-client@1.4.2")
    (tmp_path / "photos.bin").write_bytes(photos[:2].tobytes())
    (tmp_path / "photo.png").write_bytes(encode(photos[0]))
    arguments = [server.target, tmp_path / "photos.bin", tmp_path / "photo.png"]
    answers = json.loads(run(["node", CLIENTS / "grpc_js.js", *arguments], NODE_PATH=str(modules)))
    assert {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= set(answers["services"])
    assert all(answers["methods"][service] for service in answers["services"])
    np.testing.assert_allclose(np.reshape(answers["logits"], (2, 10)), logits, atol=1e-4)
    assert answers["label"]
    assert answers["error"]["code"] == "INVALID_ARGUMENT"
    assert "images[0]" in answers["error"]["details"]


def test_the_client_of_the_guide_to_node_is_generated_and_runs(server: Server, tmp_path: Path) -> None:
    """docs/clients/node.md, step by step, in a copy of what it reads."""
    guide = ROOT / "docs" / "clients" / "node"
    wanted = json.loads((guide / "package.json").read_text())
    packages = wanted["dependencies"] | wanted["devDependencies"]
    modules = node_modules_with("connect", *(f"{name}@{version}" for name, version in packages.items()))
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    home = tmp_path / "docs" / "clients" / "node"
    shutil.copytree(guide, home, ignore=shutil.ignore_patterns("gen", "node_modules"))
    (home / "node_modules").symlink_to(modules)
    run([Path(sys.executable).with_name("buf"), "generate"], home)
    examples = ROOT / "docs" / "examples"
    answers = run(["node", "classify.js", server.target, examples / "ship.png", examples / "cat.png"], home)
    assert [line.split()[1] for line in answers.splitlines()] == ["ship", "cat"]
    poem = run(["node", "stream.js", server.target, "床前明月光，"], home)
    assert poem.strip().endswith("。")
    with pytest.raises(AssertionError, match=r"InvalidArgument: images\[0\]: is not a PNG.* [0-9a-f]{32}"):
        run(["node", "classify.js", server.target, examples / "mail.txt"], home)


def test_buf_lists_every_method_by_reflection(server: Server) -> None:
    buf = Path(sys.executable).with_name("buf")
    options = ["--http2-prior-knowledge", "--protocol", "grpc"]
    methods = run([buf, "curl", *options, "--list-methods", f"http://{server.target}"]).split()
    assert {
        "lectern.v1.ClassifyService/ClassifyImage",
        "inference.GRPCInferenceService/ModelInfer",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.health.v1.Health/Watch",
    } <= set(methods)


def test_buf_calls_the_open_inference_protocol(server: Server, photos: np.ndarray) -> None:
    buf = Path(sys.executable).with_name("buf")
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    raw = base64.b64encode(photos[0].tobytes()).decode()
    request = json.dumps({"modelName": MODEL, "inputs": [tensor], "rawInputContents": [raw]})
    url = f"http://{server.target}/inference.GRPCInferenceService/ModelInfer"
    options = ["--http2-prior-knowledge", "--protocol", "grpc", "--data", request]
    response = json.loads(run([Path(buf), "curl", *options, url]))
    assert response["outputs"][0]["shape"] == ["1", "10"]


def test_a_dynamic_client_needs_nothing_but_reflection(channel: grpc.Channel, photos: np.ndarray) -> None:
    """As grpcurl: the messages are made from what the server describes, in a pool that knows nothing else."""
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("lectern.v1.ClassifyService")
    method = service.methods_by_name["ClassifyImage"]
    request = GetMessageClass(method.input_type)(images=[encode(photos[0])], top_k=3)
    call = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    assert len(call(request, timeout=WAIT).results[0].classes) == 3


def test_tritonclient_asks_for_classes_and_statistics(server: Server, photos: np.ndarray, logits: np.ndarray) -> None:
    tensor = triton.InferInput("images", [2, 32, 32, 3], "UINT8")
    tensor.set_data_from_numpy(photos[:2])
    with triton.InferenceServerClient(server.target) as client:
        before = client.get_inference_statistics(MODEL).model_stats[0].inference_stats.success.count
        output = triton.InferRequestedOutput("logits", class_count=3)
        classes = client.infer(MODEL, [tensor], outputs=[output]).as_numpy("logits")
        after = client.get_inference_statistics(MODEL).model_stats[0].inference_stats.success.count
    assert after > before
    best = [int(row[0].split(b":")[1]) for row in classes]
    assert best == np.argmax(logits, axis=1).tolist()
