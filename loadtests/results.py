"""What a load test found: points of a curve, splits, agreement and verdicts, as plain data for reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from loadtests.scrapes import Histogram, ServerSide

SATURATED_CPU = 0.9  # of one core: Python makes calls on one
SATURATED_LAG = 0.25  # of the 95th percentile
AGREES = 0.15
QUANTILES = (0.5, 0.95, 0.99)
DECLINED = ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
FEW_CALLS = 100  # below, the 95th percentile is that of less than five calls

Kind = Literal["sweep", "ramp", "rate"]
"""Users who call without a pause, in steps; the same, ever more of them; calls that begin at a rate."""


@dataclass(frozen=True)
class Agreement:
    """One percentile as the client measured it, and as Prometheus computes it from the server's buckets.

    Args:
        exact, bucketed: of the client's times, as they are, and from the same buckets as the server's; in seconds.
        server: of the server's times, which begin when a request has arrived.
    """

    quantile: float
    exact: float
    bucketed: float
    server: float

    @property
    def difference(self) -> float:
        """Of the client's from the server's, both from buckets, as a share of the server's."""
        return self.bucketed / self.server - 1

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= AGREES


@dataclass
class Point:
    """One load, and how it was answered.

    Args:
        users: who call without a pause. offered: calls a second that begin whatever the server does. One of them.
        answered: calls with status OK; only these have times.
        unanswered: calls that had no answer when the client stopped waiting, as long as they had waited.
        p50, p95, p99: seconds; None without an answer.
        client_cpu: of one core. machine_cpu: of all, where the client runs. lag: of the client's timers, 95th
            percentile.
        split: seconds of the mean call by stage, from /metrics.
        server_calls: as the server counted them.
    """

    kind: Kind
    users: int
    offered: float
    seconds: float
    answered: int
    failures: dict[str, int]
    unanswered: int
    p50: float | None
    p95: float | None
    p99: float | None
    client_cpu: float
    machine_cpu: float
    lag: float
    split: dict[str, float] = field(default_factory=dict)
    server_calls: int = 0
    agreement: list[Agreement] = field(default_factory=list)
    grew: bool = False

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def faults(self) -> dict[str, int]:
        """The failures that count: not those by which a server declines a rate that is more than it can do."""
        return {code: n for code, n in self.failures.items() if self.kind != "rate" or code not in DECLINED}

    @property
    def saturated(self) -> str:
        """Why the client, not the server, may have been what was slow; empty if it was not."""
        if self.client_cpu >= SATURATED_CPU:
            return f"the client used {self.client_cpu:.0%} of a core"
        if self.p95 and self.lag > SATURATED_LAG * self.p95:
            busy = f"the machine was {self.machine_cpu:.0%} busy"
            return f"{busy}, and the client's own timers {self.lag * 1000:.1f} ms late"
        return ""

    def meets(self, p95: float, failures: float) -> bool:
        """Whether it was answered within these limits."""
        asked = self.answered + self.failed
        return self.p95 is not None and self.p95 <= p95 and self.failed <= failures * asked and not self.grew


@dataclass(frozen=True)
class Verdict:
    """One threshold, and whether it was met."""

    passed: bool
    text: str


@dataclass
class Highest:
    """What the search for the highest rate found.

    Args:
        rate: that met the SLO, in calls a second; 0 = none did.
        failed: the lowest that did not; None = none was found.
        limit: what else is to be said of it.
    """

    rate: float
    failed: float | None
    limit: str = ""


@dataclass
class Requests:
    """All calls of one kind of request."""

    capability: str
    name: str
    times: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


@dataclass
class Result:
    """What was found of one capability, or of several that were called together."""

    name: str
    capabilities: tuple[str, ...]
    points: list[Point] = field(default_factory=list)
    requests: dict[tuple[str, str], Requests] = field(default_factory=dict)
    highest: Highest | None = None
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def curve(self) -> list[Point]:
        """The points with users, from the lightest load."""
        return [point for point in self.points if point.kind != "rate"]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    def called(self, capability: str) -> int:
        """Calls of a capability that were answered, with whatever status."""
        own = [r for r in self.requests.values() if r.capability == capability]
        return sum(len(r.times) + sum(r.failures.values()) for r in own)

    def add(self, calls: Iterable[Mapping[str, Any]]) -> None:
        """Count calls, as the generator describes them, by the kind of request."""
        for call in calls:
            key = call["capability"], call["name"]
            requests = self.requests.setdefault(key, Requests(*key))
            requests.times.extend(call["times"])
            requests.failures.update(call["failures"])


def point_of(
    kind: Kind,
    measured: Mapping[str, Any],
    server: ServerSide | None,
    services: Sequence[str],
    users: int = 0,
    offered: float = 0.0,
) -> Point:
    """A point of the curve.

    Args:
        measured: what the generator answered. server: None = its metrics are out of reach.
        services: full names of the services that were called.
    """
    times = [seconds for call in measured["calls"] for seconds in call["times"]]
    failures: Counter[str] = Counter()
    for call in measured["calls"]:
        failures.update(call["failures"])
    unanswered = measured.get("unanswered", [])
    percentiles = percentiles_of([*times, *unanswered])
    lag = percentiles_of(measured["lags"])[1] or 0.0
    point = Point(
        kind,
        users,
        offered,
        measured["seconds"],
        len(times),
        dict(failures),
        len(unanswered),
        *percentiles,
        client_cpu=measured["client_cpu"],
        machine_cpu=measured["machine_cpu"],
        lag=lag,
    )
    if server is not None:
        point.split, point.server_calls = server.split(services), server.called(services)
        point.agreement = agreement(times, server, services)
    return point


def percentiles_of(times: Sequence[float]) -> tuple[float | None, ...]:
    """The QUANTILES of these times."""
    return tuple(float(q) for q in np.quantile(times, QUANTILES)) if len(times) else (None,) * len(QUANTILES)


def agreement(times: Sequence[float], server: ServerSide, services: Sequence[str]) -> list[Agreement]:
    """The client's median and 95th percentile beside Prometheus' of the same calls; empty if there were none."""
    theirs = [histogram for (service, _), histogram in server.calls.items() if service in services]
    if not times or not theirs:
        return []
    bounds = theirs[0].bounds
    both = Histogram(bounds, [sum(counts) for counts in zip(*(h.counts for h in theirs), strict=True)])
    mine, found = Histogram.of(times, bounds), []
    for q in QUANTILES[:2]:
        bucketed, said = mine.quantile(q), both.quantile(q)
        if bucketed and said:
            found.append(Agreement(q, float(np.quantile(times, q)), bucketed, said))
    return found
