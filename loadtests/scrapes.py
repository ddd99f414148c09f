"""What a server's /metrics say of the time between two scrapes: calls, their percentiles, and where their time went."""

from __future__ import annotations

import urllib.error
import urllib.request
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families

SCRAPE_SECONDS = 5.0
HANDLING = "grpc_server_handling_seconds"
INFO, CODEC, QUEUE = "lectern_model_info", "lectern_codec_seconds_sum", "lectern_queue_seconds_sum"
AT_GRAPH, INFERENCE = "lectern_graph_request_seconds_sum", "lectern_inference_seconds_sum"
READ = (HANDLING, INFO, CODEC, QUEUE, AT_GRAPH, INFERENCE)
STAGES = ("codec", "queue", "inference", "rest")

Labels = frozenset[tuple[str, str]]
Scrape = Mapping[tuple[str, Labels], float]


class ScrapeError(Exception):
    """The metrics cannot be read; the message says why."""


def scrape(url: str) -> Scrape:
    """The samples of a /metrics page, by name and labels.

    Raises:
        ScrapeError: nobody answers there, or what answers is no page of metrics.
    """
    try:
        with urllib.request.urlopen(url, timeout=SCRAPE_SECONDS) as answer:  # noqa: S310 - the user's own address
            lines = answer.read().decode().splitlines(keepends=True)
        # Parsing is slow, and the client's CPU is measured.
        families = list(text_string_to_metric_families("".join(line for line in lines if line.startswith(READ))))
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ScrapeError(f"{url}: {reason}") from error
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    if not any(name.startswith(HANDLING) for name, _ in samples):
        raise ScrapeError(f"{url}: this page has no metrics of a Lectern server")
    return samples


@dataclass
class Histogram:
    """Counts of observations per bucket, not cumulative.

    Args:
        bounds: upper bounds of the buckets but the last, which has none.
        counts: one more than `bounds`.
    """

    bounds: Sequence[float]
    counts: Sequence[float]

    @classmethod
    def of(cls, values: Iterable[float], bounds: Sequence[float]) -> Histogram:
        """The histogram that a server would have of these values."""
        counts = Counter(bisect_left(bounds, value) for value in values)
        return cls(bounds, [counts[i] for i in range(len(bounds) + 1)])

    @property
    def total(self) -> float:
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """What Prometheus' `histogram_quantile` says: linear between a bucket's bounds; None of nothing.

        A value in the last bucket, which has no upper bound, counts as its lower one.
        """
        rank, below = q * self.total, 0.0
        if not self.total:
            return None
        for i, count in enumerate(self.counts[:-1]):
            if count and below + count >= rank:
                lower = self.bounds[i - 1] if i else 0.0
                return lower + (self.bounds[i] - lower) * (rank - below) / count
            below += count
        return self.bounds[-1]


@dataclass
class ServerSide:
    """What a server counted between two scrapes.

    Args:
        calls: histogram of the seconds of its calls, by service and method.
        handling: seconds of all calls of each service.
        stages: seconds of codecs, queues and graphs.
    """

    calls: Mapping[tuple[str, str], Histogram]
    handling: Mapping[str, float]
    stages: Mapping[str, float]
    providers: tuple[str, ...] = field(default=())

    @classmethod
    def between(cls, before: Scrape, after: Scrape) -> ServerSide:
        """The difference of two scrapes. A server that was restarted between them counts from its start."""
        sums: defaultdict[str, float] = defaultdict(float)
        handling: defaultdict[str, float] = defaultdict(float)
        cumulative: defaultdict[tuple[str, str], dict[float, float]] = defaultdict(dict)
        providers = set()
        for (name, labels), value in after.items():
            earlier = before.get((name, labels), 0.0)
            grown = value - earlier if value >= earlier else value
            sums[name] += grown
            tags = dict(labels)
            if name == INFO:
                providers.add(tags["provider"])
            elif name == f"{HANDLING}_sum":
                handling[tags["grpc_service"]] += grown
            elif name == f"{HANDLING}_bucket":
                cumulative[tags["grpc_service"], tags["grpc_method"]][float(tags["le"])] = grown
        # The queue's time is part of the request's at its graph; what is left was spent in runs.
        in_runs = max(0.0, sums[AT_GRAPH] - sums[QUEUE]) or sums[INFERENCE]
        stages = {"codec": sums[CODEC], "queue": sums[QUEUE], "inference": in_runs}
        calls = {key: _parted(buckets) for key, buckets in cumulative.items()}
        return cls(calls, dict(handling), stages, tuple(sorted(providers)))

    def called(self, services: Iterable[str]) -> int:
        """Calls of these services."""
        wanted = set(services)
        return round(sum(h.total for (service, _), h in self.calls.items() if service in wanted))

    def split(self, services: Sequence[str]) -> dict[str, float]:
        """Seconds of the mean call by stage, and the rest of its time.

        Inputs and messages of one call may be worked on at once: then the stages add up to more than the call's time,
        and there is no rest.
        """
        calls = self.called(services)
        if not calls:
            return {}
        total = sum(self.handling.get(service, 0.0) for service in services) / calls
        parts = {stage: seconds / calls for stage, seconds in self.stages.items()}
        return parts | {"rest": max(0.0, total - sum(parts.values())), "handling": total}


def _parted(cumulative: Mapping[float, float]) -> Histogram:
    bounds = sorted(cumulative)
    counts = [cumulative[b] - (cumulative[bounds[i - 1]] if i else 0.0) for i, b in enumerate(bounds)]
    return Histogram([bound for bound in bounds if bound != float("inf")], counts)
