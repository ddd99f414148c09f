"""What a server does now: rates, latencies and queues from two readings of its `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Labels = tuple[str, ...]
RPC = ("grpc_service", "grpc_method")
GRAPH = ("model", "version")
QUANTILES = (0.5, 0.95)
ABOUT_THE_SERVER = "grpc."  # health, which each client watches, and reflection


@dataclass(frozen=True)
class Reading:
    """The samples of `/metrics` at a time, in seconds of a monotonic clock: `{name: [(labels, value)]}`."""

    seconds: float
    samples: dict[str, list[tuple[dict[str, str], float]]]

    def sums(self, name: str, labels: Labels) -> dict[Labels, float]:
        """The values of a metric by these of its labels, summed over the others."""
        sums: dict[Labels, float] = {}
        for all_labels, value in self.samples.get(name, ()):
            key = tuple(all_labels.get(label, "") for label in labels)
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def value(self, name: str) -> float | None:
        """The value of a metric without labels; None if there is no such."""
        return next((value for _, value in self.samples.get(name, ())), None)


@dataclass(frozen=True)
class Change:
    """What happened between two readings.

    A counter that is smaller in the second is of a server that was started again: all of it is new.
    """

    before: Reading
    after: Reading

    @property
    def seconds(self) -> float:
        return self.after.seconds - self.before.seconds

    def counts(self, name: str, labels: Labels) -> dict[Labels, float]:
        """By how much a counter grew, by these of its labels."""
        before = self.before.sums(name, labels)
        return {
            key: value - old if (old := before.get(key, 0.0)) <= value else value
            for key, value in self.after.sums(name, labels).items()
        }

    def quantiles(self, name: str, labels: Labels) -> dict[Labels, tuple[float | None, ...]]:
        """`QUANTILES` of what a histogram observed meanwhile, by these of its labels; None where that is nothing."""
        buckets: dict[Labels, dict[float, float]] = {}
        for (*key, bound), count in self.counts(f"{name}_bucket", (*labels, "le")).items():
            buckets.setdefault(tuple(key), {})[float(bound)] = count
        return {key: tuple(quantile(q, counts) for q in QUANTILES) for key, counts in buckets.items()}


def parsed(text: str, seconds: float) -> Reading:
    """A reading of Prometheus' text format.

    Raises:
        ValueError: it is not in that format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Reading(seconds, samples)


def quantile(q: float, buckets: dict[float, float]) -> float | None:
    """A quantile of a histogram, as Prometheus' `histogram_quantile` takes it: evenly spread within a bucket.

    Args:
        buckets: by upper bound, how many observations are up to it; the last bound is infinite.

    Returns:
        None if there are no observations; the last finite bound if the quantile lies beyond.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]]
    if not total:
        return None
    lower = below = 0.0
    for bound in bounds[:-1]:
        count = buckets[bound]
        if count >= q * total and count > below:
            return lower + (bound - lower) * (q * total - below) / (count - below)
        lower, below = bound, count
    return lower


def rpcs(change: Change) -> list[dict[str, Any]]:
    """Each RPC that was called or is under way: calls and failures per second, latency in seconds, calls in flight."""
    handled = change.counts("grpc_server_handled_total", (*RPC, "grpc_code"))
    started, ended = (change.after.sums(f"grpc_server_{what}_total", RPC) for what in ("started", "handled"))
    latency = change.quantiles("grpc_server_handling_seconds", RPC)
    entries = []
    for key, calls in change.counts("grpc_server_handled_total", RPC).items():
        in_flight = round(started.get(key, 0.0) - ended[key])
        if key[0].startswith(ABOUT_THE_SERVER) or not (calls or in_flight):
            continue
        failures = {code: n for (*rpc, code), n in handled.items() if tuple(rpc) == key and code != "OK" and n}
        p50, p95 = latency.get(key, (None, None))
        entries.append(
            {
                "service": key[0],
                "method": key[1],
                "calls_per_second": calls / change.seconds,
                "p50_seconds": p50,
                "p95_seconds": p95,
                "in_flight": max(0, in_flight),
                "failures_per_second": {code: n / change.seconds for code, n in sorted(failures.items())},
            }
        )
    return sorted(entries, key=lambda entry: -float(entry["calls_per_second"]))


def graphs(change: Change) -> list[dict[str, Any]]:
    """Each graph of a model that had requests or has some waiting: rates, times in the queue and of runs, batches."""
    requests = change.counts("lectern_graph_request_seconds_count", GRAPH)
    failures = change.counts("lectern_graph_failure_seconds_count", GRAPH)
    batches, rows = change.counts("lectern_batch_size_count", GRAPH), change.counts("lectern_batch_size_sum", GRAPH)
    waits, runs = (change.quantiles(f"lectern_{what}_seconds", GRAPH) for what in ("queue", "inference"))
    waiting = change.after.sums("lectern_queue_depth", GRAPH)
    entries = []
    for key in sorted(requests.keys() | batches.keys()):
        if not any(counts.get(key) for counts in (requests, failures, batches, waiting)):
            continue
        batched = batches.get(key, 0.0)
        entries.append(
            {
                "model": key[0],
                "version": int(key[1]),
                "requests_per_second": requests.get(key, 0.0) / change.seconds,
                "failures_per_second": failures.get(key, 0.0) / change.seconds,
                "rows_per_second": rows.get(key, 0.0) / change.seconds,
                "rows_per_batch": rows.get(key, 0.0) / batched if batched else None,
                "wait_p50_seconds": waits.get(key, (None, None))[0],
                "wait_p95_seconds": waits.get(key, (None, None))[1],
                "run_p50_seconds": runs.get(key, (None, None))[0],
                "run_p95_seconds": runs.get(key, (None, None))[1],
                "waiting": round(waiting.get(key, 0.0)),
            }
        )
    return sorted(entries, key=lambda entry: -float(entry["requests_per_second"]))


def machine(change: Change) -> dict[str, float | None]:
    """Cores that the process uses, its memory in bytes, and its age; None where several workers share the figures."""
    cpu = change.counts("process_cpu_seconds_total", ())
    return {
        "cores": cpu[()] / change.seconds if cpu else None,
        "memory_bytes": change.after.value("process_resident_memory_bytes"),
        "held_bytes": change.after.sums("lectern_budget_held_bytes", ()).get((), 0.0),
    }


def snapshot(change: Change) -> dict[str, Any]:
    """All of it as one document."""
    return {"seconds": change.seconds, **machine(change), "rpcs": rpcs(change), "graphs": graphs(change)}


def changes(readings: Iterable[Reading]) -> Iterator[Change]:
    """Each reading with the one before."""
    before: Reading | None = None
    for reading in readings:
        if before is not None:
            yield Change(before, reading)
        before = reading
