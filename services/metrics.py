"""Prometheus metrics of the runtime and of the RPCs, in one place so that names and buckets agree.

gRPC names follow go-grpc-prometheus, which existing dashboards know.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram, Metric, Summary
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RPC = ("grpc_type", "grpc_service", "grpc_method")
GRAPH = ("model", "version")

RPC_STARTED = Counter("grpc_server_started", "RPCs started.", RPC)
RPC_HANDLED = Counter("grpc_server_handled", "RPCs completed, whatever their code.", (*RPC, "grpc_code"))
RPC_SECONDS = Histogram("grpc_server_handling_seconds", "Seconds from start to end of an RPC.", RPC, buckets=SECONDS)

CODEC_SECONDS = Histogram("lectern_codec_seconds", "Seconds spent decoding inputs.", ("codec",), buckets=SECONDS)
QUEUE_SECONDS = Histogram(
    "lectern_queue_seconds", "Seconds a request waited in its graph's queue.", GRAPH, buckets=SECONDS
)
INFERENCE_SECONDS = Histogram("lectern_inference_seconds", "Seconds one batch ran.", GRAPH, buckets=SECONDS)
BATCH_SIZE = Histogram("lectern_batch_size", "Items in one batch.", GRAPH, buckets=BATCH_SIZES)
QUEUE_DEPTH = Gauge("lectern_queue_depth", "Requests waiting in the queue.", GRAPH, multiprocess_mode="livesum")
GRAPH_REQUEST_SECONDS = Summary(
    "lectern_graph_request_seconds", "Seconds from a request's arrival at its graph to its answer.", GRAPH
)
GRAPH_FAILURE_SECONDS = Summary(
    "lectern_graph_failure_seconds", "The same of requests that were refused, failed or given up.", GRAPH
)
GRAPH_LAST_REQUEST = Gauge(
    "lectern_graph_last_request_timestamp_seconds",
    "When the last request of the graph ended.",
    GRAPH,
    multiprocess_mode="max",
)
REJECTED = Counter("lectern_rejected", "Requests that a graph's queue did not run.", ("model", "reason"))
DECODE_WAITING = Gauge(
    "lectern_decode_waiting", "Sequences waiting for a row of the decode batch.", GRAPH, multiprocess_mode="livesum"
)
DECODE_TOKENS = Counter("lectern_decode_tokens", "Tokens chosen: rows of all decode steps.", GRAPH)
POOL_WAITING = Gauge(
    "lectern_pool_waiting", "Items waiting for a thread of the pool.", ("pool",), multiprocess_mode="livesum"
)
POOL_SECONDS = Histogram("lectern_pool_seconds", "Seconds one item ran in the pool.", ("pool",), buckets=SECONDS)
BUDGET_TOTAL = Gauge(
    "lectern_budget_bytes", "Bytes that requests may hold together.", ("budget",), multiprocess_mode="livesum"
)
BUDGET_HELD = Gauge(
    "lectern_budget_held_bytes", "Bytes that requests hold now.", ("budget",), multiprocess_mode="livesum"
)
MODEL_INFO = Gauge(
    "lectern_model_info", "1 for each loaded graph.", (*GRAPH, "engine", "provider"), multiprocess_mode="livemax"
)
MODEL_READY = Gauge("lectern_model_ready", "1 if the version answers, 0 if not.", GRAPH, multiprocess_mode="livemin")


def end_version(model: str, version: str) -> None:
    """Drop what is said of a version that is no longer wanted: it is not one that fails."""
    _end(MODEL_READY, model, version)


def end_graph(graph: str, version: str, engine: str, provider: str) -> None:
    """Drop what is measured of a graph that is gone."""
    for metric in (
        QUEUE_SECONDS,
        INFERENCE_SECONDS,
        BATCH_SIZE,
        QUEUE_DEPTH,
        DECODE_WAITING,
        DECODE_TOKENS,
        GRAPH_REQUEST_SECONDS,
        GRAPH_FAILURE_SECONDS,
        GRAPH_LAST_REQUEST,
    ):
        _end(metric, graph, version)
    _end(MODEL_INFO, graph, version, engine, provider)


def _end(metric: Counter | Gauge | Histogram | Summary, *labels: str) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        metric.remove(*labels)
    elif isinstance(metric, Gauge):
        metric.labels(*labels).set(float("nan"))  # the files of several processes keep every series


class WorkersCollector(Collector):
    """What all workers measured, without the gauges that have ended."""

    def __init__(self) -> None:
        self._all = MultiProcessCollector(None)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        for metric in self._all.collect():  # type: ignore[no-untyped-call]
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric
