"""The log as machines read it, one JSON object a line, and as people do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from onnx import parser
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from lectern import Client, LecternError
from tests.conftest import EXPORTED, Server, encode, serving
from tests.graphs import add_graph, burn_config
from tests.runtime.test_triton import free_ports
from tests.waiting import WAIT

# Asks for as many values as the largest of `rounds` says, so that a run fails where there are fewer; 0 = as there are.
BRITTLE = """
<ir_version: 10, opset_import: ["" : 20]>
brittle (float[N, 1] features) => (float[N, 1] prediction) {
    rounds = Cast <to = 7> (features)
    most = ReduceMax <keepdims = 1> (rounds)
    line = Constant <value = int64[1] {-1}> ()
    column = Constant <value = int64[2] {-1, 1}> ()
    count = Reshape (most, line)
    values = Reshape (features, count)
    prediction = Reshape (values, column)
}
"""


def rpcs(server: Server, method: str) -> list[dict[str, object]]:
    return [r for r in server.log_records() if str(r.get("rpc", "")).endswith(f"/{method}")]


def test_every_rpc_says_who_what_and_how_long(tmp_path: Path, photos: np.ndarray) -> None:
    with serving(tmp_path, LECTERN_LOG_LEVEL="debug") as server, Client(server.target, timeout=WAIT) as client:
        client.classify_image([encode(photo) for photo in photos[:3]])
        with pytest.raises(LecternError) as caught:
            client.classify_image(b"x")
        client.list_models()
    good, bad = rpcs(server, "ClassifyImage")
    assert good["level"] == "DEBUG"
    assert (good["code"], good["model"], good["batch_size"]) == ("OK", "image_classifier/1", 3)
    parts = [float(str(good[f"{stage}_seconds"])) for stage in ("codec", "queue", "inference")]
    assert min(parts) > 0
    assert sum(parts) < float(str(good["seconds"]))
    assert str(good["peer"]).startswith("ipv4:127.0.0.1:")
    assert datetime.fromisoformat(str(good["time"])).tzinfo == UTC
    assert "trace_id" not in good
    assert (bad["level"], bad["code"], bad["request_id"]) == ("INFO", "INVALID_ARGUMENT", caught.value.request_id)
    assert "images[0]" in str(bad["message"])
    (listed,) = rpcs(server, "ListModels")
    assert not {"queue_seconds", "inference_seconds", "batch_size"} & listed.keys()
    assert {str(r["name"]).split(".")[0] for r in server.log_records()} == {"services", "lectern"}


def test_good_rpcs_are_silent_unless_asked_for(tmp_path: Path, photos: np.ndarray) -> None:
    with serving(tmp_path, "classify") as server, Client(server.target, timeout=WAIT) as client:
        client.classify_image(encode(photos[0]))
        with pytest.raises(LecternError):
            client.classify_image(b"x")
    assert [r["code"] for r in rpcs(server, "ClassifyImage")] == ["INVALID_ARGUMENT"]


def test_a_fault_of_the_server_is_an_error_with_its_cause(tmp_path: Path) -> None:
    add_graph(repository := tmp_path / "exported", "brittle", parser.parse_model(BRITTLE), burn_config(8))
    with serving(tmp_path, "predict", repository=repository) as server, InferenceServerClient(server.target) as client:
        features = InferInput("features", [1, 1], "FP32")
        features.set_data_from_numpy(np.array([[5]], np.float32))
        with pytest.raises(InferenceServerException, match="INTERNAL"):
            client.infer("brittle", [features])
    (record,) = rpcs(server, "ModelInfer")
    assert (record["level"], record["code"], record["model"]) == ("ERROR", "INTERNAL", "brittle/1")
    assert float(str(record["inference_seconds"])) > 0
    (cause,) = (r for r in server.log_records() if "exc_info" in r)
    assert "a run of brittle failed" in str(cause["message"])


def test_people_read_lines(tmp_path: Path, photos: np.ndarray) -> None:
    port, metrics_port = free_ports(2)
    options = ["--port", str(port), "--metrics-port", str(metrics_port), "--repository", str(EXPORTED)]
    environment = {"LECTERN_LOG_FORMAT": "console", "LECTERN_LOG_LEVEL": "debug", "COLUMNS": "400"}
    with (tmp_path / "log").open("wb") as file:
        command = [sys.executable, "-m", "lectern", "serve", "classify", *options]
        process = subprocess.Popen(command, stderr=file, env=os.environ | environment)
    try:
        with Client(f"127.0.0.1:{port}", wait_for_ready=True, timeout=WAIT) as client:
            client.classify_image(encode(photos[0]))
            with pytest.raises(LecternError) as caught:
                client.classify_image(b"x")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0
    lines = [" ".join(line.split()) for line in (tmp_path / "log").read_text().splitlines() if "ClassifyImage" in line]
    good, bad = lines
    assert "ClassifyImage OK image_classifier/1" in good
    assert " ms (codec " in good
    assert "INVALID_ARGUMENT: images[0]" in bad
    assert bad.endswith(f"request {caught.value.request_id}")
