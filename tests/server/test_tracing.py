"""Spans as a collector gets them by OTLP from real servers, and what an operator who wants none pays: nothing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.trace import TracerProvider
from tritonclient.grpc import InferenceServerClient, InferInput

import lectern
from lectern import Client, LecternError
from lectern.v1 import classify_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from services import tracing
from services.rpc import Call
from services.server.pipeline import Endpoint, Gate
from services.server.registry import Method
from tests.conftest import EXPORTED, ROOT, encode, serving
from tests.graphs import add_graph, burn, burn_config
from tests.waiting import WAIT, wait_until

CLASSIFY = "lectern.v1.ClassifyService/ClassifyImage"
PREDICT = "lectern.v1.PredictService/Predict"
STREAM = "lectern.v1.ClassifyService/StreamClassifyImage"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLOSED = "http://127.0.0.1:1"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Exported] = []
        self.resources: list[dict[str, Any]] = []
        self.url = ""

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        for group in request.resource_spans:
            self.resources.append(attributes(group.resource))
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Exported]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Exported:
        (span,) = self.named(name)
        return span

    def children(self, parent: Exported) -> list[Exported]:
        children = [s for s in self.spans if s.parent_span_id == parent.span_id]
        assert all(s.trace_id == parent.trace_id for s in children)
        return sorted(children, key=lambda s: s.start_time_unix_nano)


def attributes(source: Any) -> dict[str, Any]:
    """Of a span or a resource."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in source.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def exporting(collector: Collector) -> dict[str, str]:
    """Environment of a server that sends its spans only when it stops: all that arrives was flushed by the drain."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}


def test_an_rpc_is_a_tree_of_spans_below_its_callers(tmp_path: Path, collector: Collector, photos: np.ndarray) -> None:
    with (
        serving(tmp_path, "classify", LECTERN_LOG_LEVEL="debug", **exporting(collector)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        metadata = (
            ("traceparent", f"00-{TRACE}-{PARENT}-01"),
            ("tracestate", "vendor=1"),
            ("x-request-id", "tree-1"),
        )
        request = classify_pb2.ClassifyImageRequest(images=[encode(photos[0]), encode(photos[1])])
        ClassifyServiceStub(channel).ClassifyImage(request, timeout=WAIT, metadata=metadata)
        assert not collector.spans
    rpc = collector.one(CLASSIFY)
    assert rpc.kind == Exported.SPAN_KIND_SERVER
    assert (rpc.trace_id.hex(), rpc.parent_span_id.hex(), rpc.trace_state) == (TRACE, PARENT, "vendor=1")
    assert rpc.status.code == Status.STATUS_CODE_UNSET
    assert attributes(rpc) == {
        "rpc.system": "grpc",
        "rpc.service": "lectern.v1.ClassifyService",
        "rpc.method": "ClassifyImage",
        "rpc.grpc.status_code": 0,
        "lectern.model": "image_classifier/1",
        "lectern.request_id": "tree-1",
    }
    parts = collector.children(rpc)
    assert [part.name for part in parts] == ["decode image", "queue", "inference"]
    ends = [rpc.start_time_unix_nano]
    for part in parts:  # one after the other, within the RPC
        assert ends[-1] <= part.start_time_unix_nano <= part.end_time_unix_nano <= rpc.end_time_unix_nano
        ends.append(part.end_time_unix_nano)
    run = attributes(parts[2])
    assert len(run.pop("lectern.batch.id")) == 16
    assert run == {
        "lectern.graph": "image_classifier",
        "lectern.version": 1,
        "lectern.provider": "CPUExecutionProvider",
        "lectern.batch.size": 2,
        "lectern.batch.requests": 1,
    }
    assert {r["service.name"] for r in collector.resources} == {"lectern"}
    (record,) = (r for r in server.log_records() if r.get("rpc") == CLASSIFY)
    assert (record["trace_id"], record["span_id"], record["request_id"]) == (TRACE, rpc.span_id.hex(), "tree-1")
    for part, field in zip(parts, ("codec_seconds", "queue_seconds", "inference_seconds"), strict=True):
        seconds = (part.end_time_unix_nano - part.start_time_unix_nano) / 1e9
        assert record[field] == pytest.approx(seconds, abs=2e-6)


def test_both_clients_pass_their_callers_span_on(tmp_path: Path, collector: Collector, photos: np.ndarray) -> None:
    tracer = TracerProvider().get_tracer("caller")
    image = encode(photos[0])

    async def ask(target: str) -> None:
        async with lectern.aio.Client(target, timeout=WAIT) as client:
            await client.classify_image(image)
            assert len([r async for r in client.stream_classify_image([image])]) == 1

    with serving(tmp_path, "classify", **exporting(collector)) as server:
        with tracer.start_as_current_span("caller") as caller:
            with Client(server.target, timeout=WAIT) as client:
                client.classify_image(image)
                assert len(list(client.stream_classify_image([image]))) == 1
            asyncio.run(ask(server.target))
        with Client(server.target, timeout=WAIT) as client:
            client.classify_image(image)
    rpcs = collector.named(CLASSIFY) + collector.named(STREAM)
    below = [s for s in rpcs if s.parent_span_id == caller.get_span_context().span_id.to_bytes(8, "big")]
    assert sorted(s.name for s in below) == [CLASSIFY] * 2 + [STREAM] * 2
    (alone,) = (s for s in rpcs if s not in below)
    assert not alone.parent_span_id


def test_requests_of_one_batch_are_found_by_its_id(tmp_path: Path, collector: Collector, photos: np.ndarray) -> None:
    images = [encode(photo) for photo in photos[:64]]
    with (
        serving(tmp_path, "classify", **exporting(collector)) as server,
        Client(server.target, timeout=WAIT) as client,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):
        client.classify_image(images)
        list(pool.map(client.classify_image, images))
    batches: dict[str, list[Exported]] = defaultdict(list)
    for span in collector.named("inference"):
        batches[attributes(span)["lectern.batch.id"]].append(span)
    assert max(map(len, batches.values())) > 1, "nothing was batched"
    for spans in batches.values():
        (described,) = {tuple(sorted(attributes(s).items())) for s in spans}
        assert dict(described)["lectern.batch.requests"] == len(spans) == len({s.trace_id for s in spans})
        assert len({(s.start_time_unix_nano // 10_000_000, s.end_time_unix_nano // 10_000_000) for s in spans}) <= 2


def test_an_inference_has_spans_whoever_could_answer_it_faster(tmp_path: Path, collector: Collector) -> None:
    repository = tmp_path / "burning"
    add_graph(repository, "burner", burn(), burn_config(1))
    with (
        serving(tmp_path, "predict", repository=repository, **exporting(collector)) as server,
        InferenceServerClient(server.target) as client,
    ):
        features = InferInput("features", [1, 1], "FP32")
        features.set_data_from_numpy(np.array([[1]], np.float32))
        client.infer("burner", [features])
    (rpc,) = collector.named("inference.GRPCInferenceService/ModelInfer")
    assert [child.name for child in collector.children(rpc)] == ["queue", "inference"]


def test_each_message_of_a_stream_is_a_span(tmp_path: Path, collector: Collector, photos: np.ndarray) -> None:
    with serving(tmp_path, "classify", **exporting(collector)) as server, Client(server.target, timeout=WAIT) as client:
        assert len(list(client.stream_classify_image(encode(p) for p in photos[:5]))) == 5
    messages = collector.children(collector.one(STREAM))
    assert [m.name for m in messages] == ["message"] * 5
    for message in messages:
        assert [s.name for s in collector.children(message)] == ["decode image", "queue", "inference"]


@pytest.mark.unit
async def test_each_message_that_a_server_streams_is_a_span(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No RPC of these services streams from the server alone, so the endpoint is called as a transport calls it."""
    from services.server import otel_spans

    async def count(request: classify_pb2.ClassifyImageRequest, call: Call) -> AsyncIterator[Any]:
        for i in range(3):
            tracing.current().record("inference", i, i + 1)
            yield classify_pb2.ClassifyImageResponse()

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setattr(tracing, "_open", tracing._open)
    stop = otel_spans.start()
    method = Method("test.Service", "Count", classify_pb2.ClassifyImageRequest, False, True, count, "classify")
    call = Call("test.Service", "Count", deadline=float("inf"), request_id="count-1")
    assert len([r async for r in Endpoint(method, Gate()).server_stream(b"", call)]) == 3
    await asyncio.to_thread(stop)
    children = collector.children(collector.one("test.Service/Count"))
    assert [c.name for c in children] == ["message"] * 3 + ["end of stream"]
    assert [len(collector.children(c)) for c in children] == [1, 1, 1, 0]


def test_failures_have_their_code_and_servers_faults_the_error_status(
    tmp_path: Path, collector: Collector, repository: Path
) -> None:
    (repository / "lifelong_classifier" / "1" / "model.onnx").write_bytes(b"broken")
    with (
        serving(tmp_path, "classify", repository=repository, **exporting(collector)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = ClassifyServiceStub(channel)
        for model in ("image_classifier", "lifelong_classifier"):
            with pytest.raises(grpc.RpcError):
                stub.ClassifyImage(classify_pb2.ClassifyImageRequest(images=[b"x"], model=model), timeout=WAIT)
    statuses = {attributes(span)["rpc.grpc.status_code"]: span.status for span in collector.named(CLASSIFY)}
    # The caller's mistake is no fault of the server: so OpenTelemetry's conventions.
    invalid, unavailable = grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.UNAVAILABLE.value[0]
    assert statuses.keys() == {invalid, unavailable}
    assert statuses[invalid].code == Status.STATUS_CODE_UNSET
    assert statuses[unavailable].code == Status.STATUS_CODE_ERROR
    assert "does not answer" in statuses[unavailable].message


def test_a_deadline_that_passes_ends_every_span(tmp_path: Path, collector: Collector) -> None:
    repository = tmp_path / "burning"
    add_graph(repository, "burner", burn(), burn_config(1))
    with (
        serving(tmp_path, "predict", repository=repository, **exporting(collector)) as server,
        Client(server.target, timeout=WAIT) as client,
    ):
        client.predict([[1.0]], "burner")  # connected: the deadline passes in the server
        with pytest.raises(LecternError):
            client.predict([[99_999.0]], "burner", timeout=2)  # of some minutes
        client.predict([[1.0]], "burner")  # after it, the run that was ended is over
    _, rpc, _ = collector.named(PREDICT)
    # Whichever end sees first that its time is over: the caller, who then cancels, or the server.
    assert attributes(rpc)["rpc.grpc.status_code"] in {
        code.value[0] for code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    }
    assert [child.name for child in collector.children(rpc)] == ["queue", "inference"]
    for part in collector.children(rpc):
        assert part.start_time_unix_nano <= part.end_time_unix_nano <= rpc.end_time_unix_nano


def test_the_trace_goes_on_into_the_server_that_computes(
    tmp_path: Path, collector: Collector, photos: np.ndarray
) -> None:
    """A server with engine=triton calls another, which speaks Triton's protocol and traces too."""
    (far := tmp_path / "far").mkdir()
    with serving(far, "classify", OTEL_SERVICE_NAME="far", **exporting(collector)) as computes:
        options = ("--engine", "triton", "--triton-url", computes.target)
        with (
            serving(tmp_path, "classify", *options, LECTERN_LOG_LEVEL="debug", **exporting(collector)) as server,
            Client(server.target, timeout=WAIT) as client,
        ):
            client.classify_image(encode(photos[0]))
    near = collector.one(CLASSIFY)
    decode, call = collector.children(near)
    assert (decode.name, call.name, call.kind) == ("decode image", "inference", Exported.SPAN_KIND_CLIENT)
    assert attributes(call)["lectern.provider"] == "triton"
    (remote,) = collector.children(call)
    assert (remote.name, remote.kind) == ("inference.GRPCInferenceService/ModelInfer", Exported.SPAN_KIND_SERVER)
    assert [s.name for s in collector.children(remote)] == ["queue", "inference"]
    assert {r["service.name"] for r in collector.resources} == {"far", "lectern"}
    (record,) = (r for r in server.log_records() if r.get("rpc") == CLASSIFY)
    assert 0 < float(str(record["inference_seconds"])) < float(str(record["seconds"]))


def test_every_worker_exports(tmp_path: Path, collector: Collector, photos: np.ndarray) -> None:
    request = classify_pb2.ClassifyImageRequest(images=[encode(photos[0])])
    asked = 0
    environment = exporting(collector) | {"OTEL_BSP_SCHEDULE_DELAY": "100"}

    def both_answered() -> bool:
        nonlocal asked
        # Connections of one process are shared unless it asks for its own.
        with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            ClassifyServiceStub(channel).ClassifyImage(request, timeout=WAIT)
        asked += 1
        return len({r["service.instance.id"] for r in collector.resources}) == 2

    with serving(tmp_path, "classify", "--workers", "2", **environment) as server:
        wait_until(both_answered)
    assert len(collector.named(CLASSIFY)) == asked


def test_the_standard_variables_choose_what_is_sampled(
    tmp_path: Path, collector: Collector, photos: np.ndarray
) -> None:
    names = {"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"}
    with (
        serving(tmp_path, "classify", LECTERN_LOG_LEVEL="debug", **names, **exporting(collector)) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        request = classify_pb2.ClassifyImageRequest(images=[encode(photos[0])])
        for flag in ("00", "01"):
            metadata = (("traceparent", f"00-{TRACE}-{PARENT}-{flag}"),)
            ClassifyServiceStub(channel).ClassifyImage(request, timeout=WAIT, metadata=metadata)
        list(ClassifyServiceStub(channel).StreamClassifyImage(iter([]), metadata=(("traceparent", "nonsense"),)))
    assert len(collector.named(CLASSIFY)) == 1
    assert not collector.one(STREAM).parent_span_id
    (resource,) = collector.resources
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("mine", "test")
    records = [r for r in server.log_records() if r.get("rpc") == CLASSIFY]
    assert [r["trace_id"] for r in records] == [TRACE, TRACE]


@pytest.mark.parametrize(
    ("environment", "imported"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": CLOSED, "LECTERN_TRACING": "false"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": CLOSED, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": CLOSED}, True),
        ({"LECTERN_TRACING": "true"}, True),
    ],
    ids=str,
)
def test_opentelemetry_is_imported_only_if_spans_are_asked_for(
    tmp_path: Path, environment: dict[str, str], imported: bool
) -> None:
    profiling = {"PYTHONPROFILEIMPORTTIME": "1", **environment}
    with serving(tmp_path, "predict", **profiling) as server, Client(server.target, timeout=WAIT) as client:
        client.health("lectern.v1.PredictService")  # not traced: nothing is left to send to the closed port
    log = server.log.read_text()
    assert "services.tracing" in log
    assert ("opentelemetry" in log) is imported


def test_a_collector_that_is_away_costs_no_request(tmp_path: Path, photos: np.ndarray) -> None:
    with (
        serving(tmp_path, "classify", OTEL_EXPORTER_OTLP_ENDPOINT=CLOSED, OTEL_BSP_SCHEDULE_DELAY="100") as server,
        Client(server.target, timeout=WAIT) as client,
    ):
        for _ in range(20):
            client.classify_image(encode(photos[0]))


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "an OTEL_ variable is malformed"),
        ({"PYTHONPATH": "without"}, "pip install -e '.[tracing]'"),
    ],
    ids=str,
)
def test_tracing_that_cannot_be_is_a_start_error(tmp_path: Path, environment: dict[str, str], says: str) -> None:
    # An empty package of that name stands before the installed one.
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    if "PYTHONPATH" in environment:
        environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "lectern", "serve", "--port", "0", "--metrics-port", "0"]
    result = subprocess.run(
        [*command, "--repository", str(EXPORTED)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        env=os.environ | {"LECTERN_TRACING": "true", **environment},
    )
    assert result.returncode == 1
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
