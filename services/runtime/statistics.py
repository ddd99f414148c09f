"""What each graph was asked and how long it took, counted here and read back from the metrics of all workers."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import REGISTRY, CollectorRegistry

from services import metrics

GraphVersion = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Total:
    """How often something happened, and how many seconds it took together."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GraphStatistics:
    """Since the server started.

    Args:
        successes, failures: requests.
        waits: in the queue; a request larger than a batch waits several times.
        runs: batches.
        rows: items of all batches.
        last_request: when the last request ended, in seconds since the epoch; 0 = there was none.
    """

    successes: Total
    failures: Total
    waits: Total
    runs: Total
    rows: int
    last_request: float


class RequestCounter:
    """Counts the requests of one graph."""

    def __init__(self, model: str, version: int) -> None:
        labels = (model, str(version))
        self._seconds = metrics.GRAPH_REQUEST_SECONDS.labels(*labels)
        self._failure_seconds = metrics.GRAPH_FAILURE_SECONDS.labels(*labels)
        self._last = metrics.GRAPH_LAST_REQUEST.labels(*labels)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count what runs in the `with` block as one request, and as a failure if it raises."""
        started, outcome = time.monotonic(), self._failure_seconds
        try:
            yield
            outcome = self._seconds
        finally:
            outcome.observe(time.monotonic() - started)
            self._last.set_to_current_time()


def of_graphs() -> Mapping[GraphVersion, GraphStatistics]:
    """By name and version of each graph that was loaded; reads every series of the metrics, so takes milliseconds."""
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
        last_request=values["lectern_graph_last_request_timestamp_seconds"],
    )


NOTHING = _statistics(defaultdict(float))
