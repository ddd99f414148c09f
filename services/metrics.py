"""The Prometheus metrics of the runtime and of RPCs, in one place so that names and buckets agree.

The names of RPC metrics are those of go-grpc-prometheus, which existing dashboards use.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Sequence
from weakref import WeakSet

from prometheus_client import Counter, Gauge, Histogram, Metric, Summary
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0),
)
LAG_PERIOD_SECONDS = 0.01
IDLE_LAG_PERIOD_SECONDS = 0.25
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RPC = ("grpc_type", "grpc_service", "grpc_method")
GRAPH = ("model", "version")


class BatchHistogram(Histogram):
    """A histogram that takes many values at once."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe each of the amounts, at about the price of one."""
        self._sum.inc(sum(amounts))
        for bucket, count in Counts(bisect_left(self._upper_bounds, amount) for amount in amounts).items():
            self._buckets[bucket].inc(count)


RPC_STARTED = Counter("grpc_server_started", "RPCs started.", RPC)
RPC_HANDLED = Counter("grpc_server_handled", "RPCs completed, whatever their code.", (*RPC, "grpc_code"))
RPC_SECONDS = Histogram("grpc_server_handling_seconds", "Seconds from start to end of an RPC.", RPC, buckets=SECONDS)

CODEC_SECONDS = Histogram("lectern_codec_seconds", "Seconds spent decoding inputs.", ("codec",), buckets=SECONDS)
QUEUE_SECONDS = BatchHistogram(
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
CACHE_HIT_SECONDS = Summary(
    "lectern_cache_hit_seconds", "Seconds to look an answer up that the response cache had.", GRAPH
)
CACHE_MISS_SECONDS = Summary("lectern_cache_miss_seconds", "The same of answers that it did not have.", GRAPH)
REJECTED = Counter("lectern_rejected", "Requests that a graph's queue did not run.", ("model", "reason"))
DECODE_WAITING = Gauge(
    "lectern_decode_waiting", "Sequences waiting for a row of the decode batch.", GRAPH, multiprocess_mode="livesum"
)
DECODE_TOKENS = Counter("lectern_decode_tokens", "Tokens chosen: rows of all decode steps.", GRAPH)
POOL_WAITING = Gauge(
    "lectern_pool_waiting", "Items waiting for a thread of the pool.", ("pool",), multiprocess_mode="livesum"
)
POOL_SECONDS = Histogram("lectern_pool_seconds", "Seconds one item ran in the pool.", ("pool",), buckets=SECONDS)
LOOP_LAG = Histogram(
    "lectern_loop_lag_seconds",
    "Seconds by which the event loop was late for a timer, a hundred a second while there are calls.",
    buckets=LAG_SECONDS,
)
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


sources: list[Callable[[], None]] = []
"""What counts outside these metrics, and adds its counts when called."""


def collect_sources() -> None:
    """Bring the metrics up to date; call before they are read."""
    for source in list(sources):
        source()


def add_to_histogram(histogram: Histogram, counts: Sequence[int], total: float) -> None:
    """Add observations that were counted elsewhere.

    Args:
        histogram: with its labels.
        counts: per bucket, not cumulative; the last has no upper bound.
        total: sum of what was observed.
    """
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        bucket.inc(count)
    histogram._sum.inc(total)


class CallCounts:
    """Counts the calls of one RPC, on the event loop alone; `collect_sources` adds them to the metrics, which cost a
    lock for each number of each call.

    Args:
        labels: type, service and method, as of `RPC`.

    Attributes:
        started: calls so far.
        ok: those that were answered with OK so far.
    """

    def __init__(self, *labels: str) -> None:
        self.started_metric = RPC_STARTED.labels(*labels)
        self.seconds_metric = RPC_SECONDS.labels(*labels)
        self._ok_metric = RPC_HANDLED.labels(*labels, "OK")
        self.started = self.ok = 0
        self._buckets, self._seconds = [0] * (len(SECONDS) + 1), 0.0
        self._exemplars: list[Exemplar | None] = [None] * len(self._buckets)  # the last of each bucket
        self._adding = threading.Lock()
        self._added = (0, 0, [0] * len(self._buckets), 0.0)
        _call_counts.add(self)

    def ended(self, seconds: float) -> None:
        """Note that a call has ended, whatever its status, after so many seconds."""
        self._buckets[bisect_left(SECONDS, seconds)] += 1
        self._seconds += seconds

    def exemplify(self, seconds: float, trace_id: str) -> None:
        """Note the trace of a call that has ended, as an example of those that took about as long."""
        self._exemplars[bisect_left(SECONDS, seconds)] = Exemplar({"trace_id": trace_id}, seconds, time.time())

    def add(self) -> None:
        """Add what is new to the metrics; any thread may call it."""
        with self._adding:
            started, ok, buckets, total = self._added
            self._added = self.started, self.ok, self._buckets.copy(), self._seconds
            self.started_metric.inc(self._added[0] - started)
            self._ok_metric.inc(self._added[1] - ok)
            more = [now - before for now, before in zip(self._added[2], buckets, strict=True)]
            add_to_histogram(self.seconds_metric, more, max(0.0, self._added[3] - total))
            for bucket, exemplar in zip(self.seconds_metric._buckets, self._exemplars, strict=True):
                if exemplar is not None:
                    bucket.set_exemplar(exemplar)  # of several workers, prometheus_client keeps none


_call_counts: WeakSet[CallCounts] = WeakSet()


def _add_calls() -> None:
    for counts in _call_counts.copy():
        counts.add()


sources.append(_add_calls)


def lag_period(busy: bool) -> float:
    """Seconds between two timers that measure the event loop's lag. A hundred a second would be most of what an idle
    server does."""
    return LAG_PERIOD_SECONDS if busy else IDLE_LAG_PERIOD_SECONDS


async def meter_lag(period: float) -> None:
    """Observe how late the running event loop is for a timer of so many seconds.

    A delay that is shorter than the time between two timers may fall between them; a longer one may be measured short
    by as much.
    """
    due = time.monotonic() + period
    await asyncio.sleep(period)
    LOOP_LAG.observe(max(0.0, time.monotonic() - due))


def end_version(model: str, version: str) -> None:
    """Remove the metrics of a version that is no longer wanted, so that it does not count as failing."""
    _end(MODEL_READY, model, version)


def end_graph(graph: str, version: str, engine: str, provider: str) -> None:
    """Remove the metrics of a graph that is gone."""
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
        CACHE_HIT_SECONDS,
        CACHE_MISS_SECONDS,
    ):
        _end(metric, graph, version)
    _end(MODEL_INFO, graph, version, engine, provider)


def _end(metric: Counter | Gauge | Histogram | Summary, *labels: str) -> None:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        metric.remove(*labels)
    elif isinstance(metric, Gauge):
        metric.labels(*labels).set(float("nan"))  # the files of several processes keep every series


class WorkersCollector(Collector):
    """The metrics of all workers, without the gauges that have ended."""

    def __init__(self) -> None:
        self._all = MultiProcessCollector(None)  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        for metric in self._all.collect():  # type: ignore[no-untyped-call]
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric
