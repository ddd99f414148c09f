"""Calls and requests that are counted where they end reach the metrics once each, whoever reads them meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from services import metrics
from services.runtime.statistics import RequestCounter

pytestmark = pytest.mark.unit

RPC = ("unary", "test.Counts", "Count")
GRAPH = ("test_counts", 1)
COUNT = 20_000


def value(name: str, **further: str) -> float:
    labels = dict(zip(metrics.RPC, RPC, strict=True)) | further
    return REGISTRY.get_sample_value(name, labels) or 0.0


def of_graph(name: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": GRAPH[0], "version": str(GRAPH[1])}) or 0.0


@pytest.fixture
def reader() -> Iterator[None]:
    """Reads the metrics all the while."""
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            metrics.collect_sources()

    thread = threading.Thread(target=read)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("reader")
def test_each_call_is_counted_once() -> None:
    counts = metrics.CallCounts(*RPC)
    for i in range(COUNT):
        counts.started += 1
        counts.ended((0.0, 0.003, 100.0, 0.003)[i % 4])
        counts.ok += i % 2
    metrics.collect_sources()
    assert value("grpc_server_started_total") == COUNT
    assert value("grpc_server_handled_total", grpc_code="OK") == COUNT / 2
    assert value("grpc_server_handling_seconds_count") == COUNT
    assert value("grpc_server_handling_seconds_sum") == pytest.approx(COUNT / 4 * 100.006)
    bounds = {"0.0005": 1, "0.0025": 1, "0.005": 3, "10.0": 3, "+Inf": 4}
    for bound, quarters in bounds.items():
        assert value("grpc_server_handling_seconds_bucket", le=bound) == quarters * COUNT / 4


@pytest.mark.usefixtures("reader")
def test_each_request_of_a_graph_is_counted_once_from_any_thread() -> None:
    counter = RequestCounter(*GRAPH)

    def work(failed: bool) -> None:
        for _ in range(COUNT // 4):
            counter.count(time.monotonic() - 1, failed)

    threads = [threading.Thread(target=work, args=(i == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counter.flush()
    assert of_graph("lectern_graph_request_seconds_count") == 3 * COUNT / 4
    assert of_graph("lectern_graph_failure_seconds_count") == COUNT / 4
    assert of_graph("lectern_graph_failure_seconds_sum") == pytest.approx(COUNT / 4, rel=0.05)
    assert abs(of_graph("lectern_graph_last_request_timestamp_seconds") - time.time()) < 60
