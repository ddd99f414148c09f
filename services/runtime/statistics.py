"""Requests and times of each graph, counted here and read back from the metrics of all workers."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakSet

from prometheus_client import REGISTRY, CollectorRegistry

from services import metrics

GraphVersion = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Total:
    """How often something happened, and how many seconds it took in total."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GraphStatistics:
    """Statistics of a graph since the server started.

    Args:
        successes, failures: requests.
        waits: times in the queue; a request larger than a batch waits several times.
        runs: batches.
        rows: items of all batches.
        cache_hits, cache_misses: look-ups in the response cache, where the graph has one.
        last_request: when the last request ended, in seconds since the epoch; 0 = there was none.
    """

    successes: Total
    failures: Total
    waits: Total
    runs: Total
    rows: int
    cache_hits: Total
    cache_misses: Total
    last_request: float


class RequestCounter:
    """Counts the requests of one graph, and adds them to the metrics when these are read or `flush` is called: each
    metric of each request would take a lock of its own."""

    def __init__(self, model: str, version: int) -> None:
        labels = (model, str(version))
        self._seconds = metrics.GRAPH_REQUEST_SECONDS.labels(*labels)
        self._failure_seconds = metrics.GRAPH_FAILURE_SECONDS.labels(*labels)
        self._last = metrics.GRAPH_LAST_REQUEST.labels(*labels)
        self._counting = threading.Lock()
        self._reset()
        _counters.add(self)

    def request(self) -> _CountedRequest:
        """Count the `with` block as one request, and as a failure if it raises."""
        return _CountedRequest(self)

    def count(self, started: float, failed: bool) -> None:
        """Count a request that has ended."""
        now, ended = time.monotonic(), time.time()
        with self._counting:
            self._counts[failed] += 1
            self._totals[failed] += now - started
            self._ended = ended

    def flush(self) -> None:
        """Add what has been counted to the metrics."""
        with self._counting:
            counts, totals = self._counts, self._totals
            self.add(Total(counts[False], totals[False]), Total(counts[True], totals[True]), self._ended)
            self._reset()

    def _reset(self) -> None:
        self._counts, self._totals, self._ended = [0, 0], [0.0, 0.0], 0.0  # of successes, of failures

    def add(self, successes: Total, failures: Total, last_request: float) -> None:
        """Add requests that were counted elsewhere; `last_request` as in `GraphStatistics`."""
        for summary, total in ((self._seconds, successes), (self._failure_seconds, failures)):
            summary._count.inc(total.count)
            summary._sum.inc(total.seconds)
        if last_request:
            self._last.set(last_request)


_counters: WeakSet[RequestCounter] = WeakSet()


def _flush() -> None:
    for counter in _counters.copy():
        counter.flush()


metrics.sources.append(_flush)


class _CountedRequest:
    __slots__ = ("_counter", "_started")

    def __init__(self, counter: RequestCounter) -> None:
        self._counter, self._started = counter, time.monotonic()

    def __enter__(self) -> None:
        """Its time began when it was created."""

    def __exit__(self, kind: type[BaseException] | None, _: object, __: object) -> None:
        self._counter.count(self._started, failed=kind is not None)


def of_graphs() -> Mapping[GraphVersion, GraphStatistics]:
    """Statistics by name and version of each loaded graph. Takes milliseconds, since it reads all series."""
    metrics.collect_sources()
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        registry.register(metrics.WorkersCollector())
    samples: defaultdict[GraphVersion, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.labels.keys() >= set(metrics.GRAPH):
                key = (sample.labels["model"], sample.labels["version"])
                samples[key][sample.name] = sample.value
    return {key: _statistics(values) for key, values in samples.items()}


def _statistics(values: Mapping[str, float]) -> GraphStatistics:
    def total(name: str) -> Total:
        return Total(int(values[f"{name}_count"]), values[f"{name}_sum"])

    return GraphStatistics(
        successes=total("lectern_graph_request_seconds"),
        failures=total("lectern_graph_failure_seconds"),
        waits=total("lectern_queue_seconds"),
        runs=total("lectern_inference_seconds"),
        rows=int(values["lectern_batch_size_sum"]),
        cache_hits=total("lectern_cache_hit_seconds"),
        cache_misses=total("lectern_cache_miss_seconds"),
        last_request=values["lectern_graph_last_request_timestamp_seconds"],
    )


NOTHING = _statistics(defaultdict(float))
