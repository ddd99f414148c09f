"""Metrics of graphs under the names that NVIDIA Triton gives them, for dashboards and alerts that exist.

Names, labels and meaning: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
They are read from Lectern's own metrics at each scrape, and cost requests nothing. What Lectern does not measure as
Triton does is missing: Triton adds the time of a batch's compute once for each of its requests
(`nv_inference_compute_..._duration_us`), Lectern once a batch (`lectern_inference_seconds`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from prometheus_client import Metric
from prometheus_client.registry import Collector

from services.metrics import GRAPH

MICROSECONDS = 1e6


class _Alias(NamedTuple):
    """Triton's name of a sample, and by how much its value is multiplied.

    Triton's counters have no `_total` at their end, without which Prometheus' libraries write none: their type is
    `untyped` here, which nothing that reads them minds.
    """

    name: str
    help: str
    factor: float = 1.0
    type: Literal["unknown", "gauge"] = "unknown"


ALIASES = {
    "lectern_graph_request_seconds_count": _Alias("nv_inference_request_success", "Requests that were answered."),
    "lectern_graph_failure_seconds_count": _Alias("nv_inference_request_failure", "Requests that failed."),
    "lectern_batch_size_sum": _Alias("nv_inference_count", "Rows of all runs."),
    "lectern_inference_seconds_count": _Alias("nv_inference_exec_count", "Runs, of a batch each."),
    "lectern_graph_request_seconds_sum": _Alias(
        "nv_inference_request_duration_us", "Microseconds of the requests that were answered.", MICROSECONDS
    ),
    "lectern_queue_seconds_sum": _Alias(
        "nv_inference_queue_duration_us", "Microseconds that requests waited in the queue.", MICROSECONDS
    ),
    "lectern_queue_depth": _Alias("nv_inference_pending_request_count", "Requests that wait in the queue.", 1, "gauge"),
    "lectern_cache_hit_seconds_count": _Alias("nv_cache_num_hits_per_model", "Answers that the cache had."),
    "lectern_cache_miss_seconds_count": _Alias("nv_cache_num_misses_per_model", "Answers that it did not have."),
    "lectern_cache_hit_seconds_sum": _Alias(
        "nv_cache_hit_duration_us", "Microseconds to find what it had.", MICROSECONDS
    ),
    "lectern_cache_miss_seconds_sum": _Alias(
        "nv_cache_miss_duration_us", "Microseconds to find that it had nothing.", MICROSECONDS
    ),
}


class Source(Protocol):
    """A registry, or a collector."""

    def collect(self) -> Iterable[Metric]:
        """Its metrics now."""


class WithTritonNames(Collector):
    """The metrics of `source`, and those of its graphs once more by Triton's names."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        aliases = {key: Metric(alias.name, alias.help, alias.type) for key, alias in ALIASES.items()}
        for metric in self._source.collect():
            yield metric
            for sample in metric.samples:
                if alias := ALIASES.get(sample.name):
                    labels = {label: sample.labels[label] for label in GRAPH}
                    aliases[sample.name].add_sample(alias.name, labels, sample.value * alias.factor)
        yield from (metric for metric in aliases.values() if metric.samples)
