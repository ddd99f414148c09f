"""What /metrics says beside Lectern's own names: Triton's, and exemplars for whoever asks for OpenMetrics."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample
from tritonclient.grpc import InferenceServerClient

from lectern import Client
from lectern.v1 import predict_pb2, predict_pb2_grpc
from services.predict import CAPABILITY
from tests.conftest import ROOT, Server, serving
from tests.server.test_tracing import PARENT, TRACE, collecting, exporting
from tests.waiting import WAIT, wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
UNSAMPLED = "1af7651916cd43dd8448eb211c80319c"
TRITON = {  # of https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_pending_request_count",
}
FEATURES = len(CAPABILITY.example(ROOT / "docs" / "examples").rows[0].features)
MODEL = {"model": "covid_regressor", "version": "1"}


def scrape(server: Server, accept: str = "text/plain") -> tuple[str, str]:
    """The page's content type and text."""
    request = urllib.request.Request(f"{server.metrics_url}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def of_model(text: str) -> dict[str, float]:
    """The samples that have no other labels than those of the model."""
    samples = [sample for family in parse_text(text) for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.labels == MODEL}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_graphs_have_tritons_names_where_they_are_asked_for(tmp_path: Path, workers: str) -> None:
    settings = {"LECTERN_TRITON_METRICS": "true", "LECTERN_WATCH_SECONDS": "0.1"}
    with serving(tmp_path, "predict", "--workers", workers, **settings) as server:
        with Client(server.target) as client:
            for _ in range(4):
                client.predict(np.zeros((5, FEATURES)), model="covid_regressor")
        wait_until(lambda: of_model(scrape(server)[1]).get("nv_inference_request_success") == 4)
        found = of_model(scrape(server)[1])
        for accept in ("text/plain", OPENMETRICS):
            assert "nv_inference_request_success{" in scrape(server, accept)[1]
        list(parse_openmetrics(scrape(server, OPENMETRICS)[1]))  # raises where the format is broken
        with InferenceServerClient(server.target) as client:
            counted = client.get_inference_statistics("covid_regressor").model_stats[0]
    assert {name for name in found if name.startswith("nv_inference")} == TRITON
    assert found["nv_inference_count"] == counted.inference_count == 20
    assert found["nv_inference_exec_count"] == counted.execution_count == 4
    assert found["nv_inference_request_failure"] == 0
    assert found["nv_inference_pending_request_count"] == 0
    stats = counted.inference_stats
    assert found["nv_inference_request_duration_us"] == pytest.approx(stats.success.ns / 1000, abs=1)
    assert found["nv_inference_queue_duration_us"] == pytest.approx(stats.queue.ns / 1000, abs=1)
    assert found["nv_inference_queue_duration_us"] < found["nv_inference_request_duration_us"]


def test_nobody_else_gets_tritons_names(server: Server) -> None:
    assert "nv_" not in scrape(server)[1]


def exemplars(text: str) -> list[Sample]:
    """The buckets of Predict's time that have an exemplar."""
    buckets = [sample for family in parse_openmetrics(text) for sample in family.samples if sample.exemplar]
    return [sample for sample in buckets if sample.labels.get("grpc_method") == "Predict"]


def predict(server: Server, traceparent: str) -> None:
    row = predict_pb2.FeatureRow(features=[0.0] * FEATURES)
    request = predict_pb2.PredictRequest(model="covid_regressor", rows=[row])
    with grpc.insecure_channel(server.target) as channel:
        stub = predict_pb2_grpc.PredictServiceStub(channel)
        stub.Predict(request, metadata=(("traceparent", traceparent),), timeout=WAIT)


def test_times_have_the_trace_of_one_call_as_an_exemplar(tmp_path: Path) -> None:
    with collecting() as collector, serving(tmp_path, "predict", **exporting(collector)) as server:
        predict(server, f"00-{UNSAMPLED}-{PARENT}-00")  # the caller decided that it is not recorded
        assert not exemplars(scrape(server, OPENMETRICS)[1])
        predict(server, f"00-{TRACE}-{PARENT}-01")
        kind, page = scrape(server, OPENMETRICS)
        (sample,) = exemplars(page)
        plain, text = scrape(server)
    assert kind.startswith("application/openmetrics-text")
    assert sample.name == "grpc_server_handling_seconds_bucket"
    assert sample.exemplar is not None
    assert sample.exemplar.labels == {"trace_id": TRACE}
    assert 0 < sample.exemplar.value <= float(sample.labels["le"])
    assert plain.startswith("text/plain")
    assert TRACE not in text  # this format has no exemplars
    assert {s.trace_id.hex() for s in collector.spans} == {TRACE}


def test_without_tracing_there_are_no_exemplars(server: Server) -> None:
    predict(server, f"00-{TRACE}-{PARENT}-01")
    kind, page = scrape(server, OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    assert not exemplars(page)


def test_several_workers_have_no_exemplars(tmp_path: Path) -> None:
    """prometheus_client keeps none in the files through which workers share their metrics."""
    with collecting() as collector:
        settings = exporting(collector) | {"LECTERN_WATCH_SECONDS": "0.1"}
        with serving(tmp_path, "predict", "--workers", "2", **settings) as server:
            predict(server, f"00-{TRACE}-{PARENT}-01")
            counted = 'grpc_server_handled_total{grpc_code="OK",grpc_method="Predict"'
            wait_until(lambda: counted in scrape(server, OPENMETRICS)[1])
            assert not exemplars(scrape(server, OPENMETRICS)[1])
