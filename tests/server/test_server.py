"""The server as an operator sees it: health, metrics, drain, workers, damaged repositories, start errors."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lectern.errors import LecternError
from lectern.v1 import classify_pb2, model_pb2, predict_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from lectern.v1.model_pb2_grpc import ModelServiceStub
from lectern.v1.predict_pb2_grpc import PredictServiceStub
from tests.conftest import EXPORTED, ROOT, Server, encode, serving
from tests.graphs import add_graph, burn, burn_config
from tests.waiting import WAIT, wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=WAIT) as response:
        return str(response.read().decode())


def sample(metrics: str, name: str, **labels: str) -> float:
    """The value of the one series of that name with these labels."""
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if re.match(rf"{name}(\{{|\s)", line) and all(f'{k}="{v}"' in line for k, v in labels.items())
    ]
    assert len(values) == 1, (name, labels, values)
    return values[0]


def classify(target: str, images: list[bytes], timeout: float = WAIT) -> classify_pb2.ClassifyImageResponse:
    with grpc.insecure_channel(target) as channel:
        request = classify_pb2.ClassifyImageRequest(images=images)
        response: classify_pb2.ClassifyImageResponse = ClassifyServiceStub(channel).ClassifyImage(
            request, timeout=timeout
        )
        return response


def test_health_of_each_service(server: Server, channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "lectern.v1.ClassifyService", "lectern.v1.PredictService", "inference.GRPCInferenceService"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    for path in ("healthz", "readyz"):
        assert json.loads(get(f"{server.metrics_url}/{path}")) == {"status": "SERVING"}


def test_buf_curl_finds_everything_by_reflection(server: Server, photos: np.ndarray) -> None:
    import base64

    buf = Path(sys.executable).with_name("buf")
    request = json.dumps({"images": [base64.b64encode(encode(photos[0])).decode()], "topK": 2})
    url = f"http://{server.target}/lectern.v1.ClassifyService/ClassifyImage"
    command = [buf, "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", request, url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["results"][0]["classes"]) == 2


def test_models_and_cards(channel: grpc.Channel) -> None:
    stub = ModelServiceStub(channel)
    listed = {m.name: m for m in stub.ListModels(model_pb2.ListModelsRequest(), timeout=WAIT).models}
    assert {"image_classifier", "covid_regressor"} <= listed.keys()
    assert listed["image_classifier"].lecture == "HW3"
    assert not listed["image_classifier"].versions[0].HasField("card")
    model = stub.GetModel(model_pb2.GetModelRequest(model="image_classifier"), timeout=WAIT).model
    card = json.loads((EXPORTED / "image_classifier" / "1" / "card.json").read_text())
    assert model.versions[-1].card["labels"] == card["labels"]
    for wrong in (model_pb2.GetModelRequest(model="x"), model_pb2.GetModelRequest(model="covid_regressor", version=9)):
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetModel(wrong, timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_metrics_count_calls(tmp_path: Path, photos: np.ndarray) -> None:
    image = encode(photos[0])
    with serving(tmp_path) as server:
        with grpc.insecure_channel(server.target) as channel:
            stub = ClassifyServiceStub(channel)
            for i in range(100):
                request = classify_pb2.ClassifyImageRequest(images=[image] * (1 if i % 2 else 3))
                stub.ClassifyImage(request, timeout=WAIT)
            for _ in range(7):
                with pytest.raises(grpc.RpcError):
                    stub.ClassifyImage(classify_pb2.ClassifyImageRequest(images=[b"x"]), timeout=WAIT)
        metrics = get(f"{server.metrics_url}/metrics")
    rpc = {"grpc_service": "lectern.v1.ClassifyService", "grpc_method": "ClassifyImage", "grpc_type": "unary"}
    graph = {"model": "image_classifier", "version": "1"}
    assert sample(metrics, "grpc_server_started_total", **rpc) == 107
    assert sample(metrics, "grpc_server_handled_total", **rpc, grpc_code="OK") == 100
    assert sample(metrics, "grpc_server_handled_total", **rpc, grpc_code="INVALID_ARGUMENT") == 7
    assert sample(metrics, "grpc_server_handling_seconds_count", **rpc) == 107
    assert sample(metrics, "lectern_queue_seconds_count", **graph) == 100
    assert sample(metrics, "lectern_inference_seconds_count", **graph) == 100
    assert sample(metrics, "lectern_batch_size_count", **graph) == 100
    assert sample(metrics, "lectern_batch_size_sum", **graph) == 200
    assert sample(metrics, "lectern_batch_size_bucket", **graph, le="1.0") == 50
    assert sample(metrics, "lectern_queue_depth", **graph) == 0
    assert sample(metrics, "lectern_model_info", **graph, engine="onnxruntime") == 1
    assert sample(metrics, "lectern_model_ready", **graph) == 1
    assert sample(metrics, "lectern_codec_seconds_count", codec="image") == 100
    assert sample(metrics, "lectern_loop_lag_seconds_count") > 0


def test_answers_do_not_depend_on_how_requests_were_batched(tmp_path: Path, photos: np.ndarray) -> None:
    images = [encode(photo) for photo in photos[:64]]
    with serving(tmp_path) as server:
        with grpc.insecure_channel(server.target) as channel:
            stub = ClassifyServiceStub(channel)

            def ask(i: int) -> list[float]:
                request = classify_pb2.ClassifyImageRequest(images=[images[i % 64]])
                classes = stub.ClassifyImage(request, timeout=WAIT).results[0].classes
                return [c.probability for c in sorted(classes, key=lambda c: c.index)]

            alone = [ask(i) for i in range(64)]
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                together = list(pool.map(ask, range(640)))
        batches = get(f"{server.metrics_url}/metrics")
    graph = {"model": "image_classifier", "version": "1"}
    assert sample(batches, "lectern_batch_size_count", **graph) < 700, "nothing was batched"
    np.testing.assert_allclose(together, [alone[i % 64] for i in range(640)], atol=1e-4)


def test_a_full_queue_refuses_with_retry_info(tmp_path: Path, repository: Path, photos: np.ndarray) -> None:
    config = repository / "image_classifier" / "config.pbtxt"
    config.write_text(
        config.read_text().replace(
            "dynamic_batching {", "dynamic_batching { default_queue_policy { max_queue_size: 2 }"
        )
    )
    images = [encode(photos[i]) for i in range(64)]
    with serving(tmp_path, repository=repository) as server:
        with grpc.insecure_channel(server.target) as channel:
            stub = ClassifyServiceStub(channel)
            calls = [
                stub.ClassifyImage.future(classify_pb2.ClassifyImageRequest(images=images), timeout=WAIT)
                for _ in range(40)
            ]
            codes = [call.code() for call in calls]
            refused = next(call for call in calls if call.code() is not grpc.StatusCode.OK)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert (LecternError.of(refused).retry_after or 0) > 0
        assert sample(
            get(f"{server.metrics_url}/metrics"), "lectern_rejected_total", reason="queue_full"
        ) == codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_server_of_one_model_is_ready(tmp_path: Path) -> None:
    repository = tmp_path / "exported"
    shutil.copytree(EXPORTED / "lunar_lander", repository / "lunar_lander")
    with serving(tmp_path, repository=repository) as server:
        assert json.loads(get(f"{server.metrics_url}/readyz")) == {"status": "SERVING"}
        with grpc.insecure_channel(server.target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service, status in {"ActService": SERVING, "PredictService": NOT_SERVING}.items():
                request = health_pb2.HealthCheckRequest(service=f"lectern.v1.{service}")
                assert health.Check(request).status == status


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda v: (v / "model.onnx").write_bytes(b"not a graph"), "SHA-256"),
        (lambda v: (v / "model.onnx").unlink(), "model.onnx"),
        (lambda v: (v / "card.json").write_text("{}"), "card.json is not valid"),
        (lambda v: (v.parent / "config.pbtxt").write_text("nonsense {"), "config.pbtxt cannot be read"),
        (lambda v: (v.parent / "config.pbtxt").unlink(), "config.pbtxt is missing"),
    ],
    ids=["altered graph", "no graph", "empty card", "broken config", "no config"],
)
def test_a_damaged_model_leaves_the_others_serving(
    tmp_path: Path, repository: Path, photos: np.ndarray, damage: object, reason: str
) -> None:
    shutil.rmtree(repository / "table_learner")  # which would answer for PredictService
    damage(repository / "covid_regressor" / "1")  # type: ignore[operator]
    with serving(tmp_path, repository=repository) as server:
        assert len(classify(server.target, [encode(photos[0])]).results) == 1
        with grpc.insecure_channel(server.target) as channel:
            listed = {m.name: m for m in ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest()).models}
            health = health_pb2_grpc.HealthStub(channel)
            assert (
                health.Check(health_pb2.HealthCheckRequest(service="lectern.v1.PredictService")).status == NOT_SERVING
            )
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(f"{server.metrics_url}/readyz")
        assert json.loads(get(f"{server.metrics_url}/healthz")) == {"status": "SERVING"}
        version = listed["covid_regressor"].versions[0]
        assert version.state == model_pb2.MODEL_STATE_UNAVAILABLE
        assert reason in version.reason
        metrics = get(f"{server.metrics_url}/metrics")
        assert sample(metrics, "lectern_model_ready", model="covid_regressor") == 0
        assert any(reason in str(r["message"]) for r in server.log_records() if r["level"] == "ERROR")


def test_a_graph_that_is_no_onnx_is_out_of_service(tmp_path: Path, repository: Path, photos: np.ndarray) -> None:
    import hashlib

    version = repository / "covid_regressor" / "1"
    content = b"not a graph, but with the right checksum"
    (version / "model.onnx").write_bytes(content)
    card = json.loads((version / "card.json").read_text())
    card["files"] = {"covid_regressor/1/model.onnx": hashlib.sha256(content).hexdigest()}
    (version / "card.json").write_text(json.dumps(card))
    with serving(tmp_path, repository=repository) as server:
        assert len(classify(server.target, [encode(photos[0])]).results) == 1
        assert any("cannot load the graph" in str(r["message"]) for r in server.log_records())


def test_serves_only_the_capabilities_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, "predict") as server, grpc.insecure_channel(server.target) as channel:
        listed = ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=WAIT).models
        assert [m.name for m in listed] == ["covid_regressor", "table_learner"]
        with pytest.raises(grpc.RpcError) as caught:
            ClassifyServiceStub(channel).ClassifyImage(classify_pb2.ClassifyImageRequest(), timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.chaos
def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path, photos: np.ndarray) -> None:
    images = [encode(photo) for photo in photos[:64]]
    codes: list[grpc.StatusCode] = []
    with serving(tmp_path) as server:

        def ask(stub: ClassifyServiceStub) -> None:
            while not codes or codes[-1] is grpc.StatusCode.OK:
                call = stub.ClassifyImage.future(classify_pb2.ClassifyImageRequest(images=images), timeout=WAIT)
                codes.append(call.code())

        with grpc.insecure_channel(server.target) as channel:
            threads = [threading.Thread(target=ask, args=(ClassifyServiceStub(channel),)) for _ in range(8)]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(codes) >= 8)
            os.kill(server.pid, signal.SIGTERM)
            for thread in threads:
                thread.join()
        assert server.process.wait(WAIT) == 0
    assert codes.count(grpc.StatusCode.OK) >= 8
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, codes
    assert server.log_records()[-1]["message"] == "stopped"


def test_it_stops_cleanly_in_the_middle_of_a_run(tmp_path: Path) -> None:
    repository = tmp_path / "burning"
    add_graph(repository, "burner", burn(), burn_config(1))
    with serving(tmp_path, "predict", repository=repository) as server:
        with grpc.insecure_channel(server.target) as channel:
            rows = [predict_pb2.FeatureRow(features=[99_999])]  # some minutes
            request = predict_pb2.PredictRequest(model="burner", rows=rows)
            running = PredictServiceStub(channel).Predict.future(request)  # which ends when nobody holds it
            labels = {"model": "burner", "version": "1"}
            wait_until(lambda: sample(get(f"{server.metrics_url}/metrics"), "lectern_batch_size_count", **labels) == 1)
            assert not running.done()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(WAIT) == 0, server.log.read_text()


def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, LECTERN_DRAIN_PAUSE_SECONDS="60") as server:
        server.process.terminate()
        wait_for_log(server, "draining")
        server.process.terminate()
        assert server.process.wait(WAIT) == 1


def wait_for_log(server: Server, text: str) -> None:
    wait_until(lambda: any(text in str(r["message"]) for r in server.log_records()))


@pytest.mark.chaos
def test_workers_share_the_port_and_a_killed_one_is_replaced(tmp_path: Path, photos: np.ndarray) -> None:
    image = encode(photos[0])
    with serving(tmp_path, "--workers", "2") as server:
        workers = worker_pids(server)
        assert len(workers) == 2
        assert json.loads(get(f"{server.metrics_url}/readyz")) == {"status": "SERVING"}
        for _ in range(20):
            assert len(classify(server.target, [image]).results) == 1
        wait_until(lambda: calls_counted(server) == 20)  # workers bring their counts together once a second
        os.kill(min(workers), signal.SIGKILL)
        wait_until(lambda: len(worker_pids(server) - workers) == 1)
        assert len(classify(server.target, [image]).results) == 1


def calls_counted(server: Server) -> float:
    metrics = get(f"{server.metrics_url}/metrics")
    return sample(metrics, "grpc_server_handled_total", grpc_method="ClassifyImage", grpc_code="OK")


def worker_pids(server: Server) -> set[int]:
    children = psutil.Process(server.pid).children()
    return {p.pid for p in children if p.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(p.cmdline())}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repository", "nowhere"], "'nowhere' does not exist"),
        (["--device", "cuda"], "pip install -e '.[gpu]'"),
        (["fly"], "there is no capability 'fly'"),
    ],
)
def test_start_errors_say_what_to_do(tmp_path: Path, arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "lectern", "serve", "--port", "0", "--metrics-port", "0", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT)
    assert result.returncode in (1, 2)
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_taken_port_is_named(server: Server) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "lectern", "serve", "--port", str(port), "--metrics-port", "0"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in " ".join(result.stderr.split())


def test_unknown_path_lists_what_there_is(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{server.metrics_url}/nothing")
    assert caught.value.code == 404
    assert json.loads(caught.value.read())["paths"] == ["/metrics", "/healthz", "/readyz"]
