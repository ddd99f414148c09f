"""What may happen to a service: a day, a crowd, the loss of a zone; and the law that goes beyond what is simulated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from model import Cluster, Service, Simulation

DAY, MINUTE = 86_400.0, 60.0
CROWD, CROWD_AT, CROWD_SECONDS = 5.0, 2 * MINUTE, 5 * MINUTE
"""A crowd is so many times the load, from when and for how long."""
LOST_AT = 3 * MINUTE
FASTER = 30
"""How many times faster than in truth a day goes by."""
ENOUGH = 10 * MINUTE
"""In which what waits is answered."""
SLOW = 0.5
"""Seconds in which 95 % of the requests are to be answered, where pods are counted."""


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario; latencies in seconds, and the share of requests that were refused or lost."""

    scenario: str
    rate: float
    pods: int
    nodes: int
    node_hours: float
    p50: float
    p95: float
    p99: float
    failed: float


def day(rate: float) -> Callable[[float], float]:
    """A day whose evening has nine times the requests of its early morning; `rate` is its mean."""
    return lambda time: rate * (1 - 0.8 * math.cos(2 * math.pi * (time - 5 * 3600) / DAY))


def crowd(rate: float) -> Callable[[float], float]:
    """A steady rate, and a crowd at once."""
    return lambda time: rate * (CROWD if CROWD_AT <= time < CROWD_AT + CROWD_SECONDS else 1)


def outcome(name: str, rate: float, simulation: Simulation) -> Outcome:
    """A simulation that has run."""
    p50, p95, p99 = np.quantile(simulation.latencies, [0.5, 0.95, 0.99])
    failed = (simulation.refused + simulation.lost) / simulation.arrived
    most = max(sample.ready for sample in simulation.samples)
    nodes = max(sample.nodes for sample in simulation.samples)
    hours = simulation.node_seconds / 3600
    return Outcome(name, rate, most, nodes, hours, float(p50), float(p95), float(p99), failed)


def simulate_day(service: Service, cluster: Cluster, rate: float) -> tuple[Outcome, Simulation]:
    """A day in which each hour is two minutes long, so that millions of requests need not be simulated."""
    simulation = Simulation(service, cluster, lambda time: day(rate)(time * FASTER))
    simulation.run(DAY / FASTER)
    simulation.node_seconds *= FASTER
    return outcome("day", rate, simulation), simulation


def simulate_crowd(service: Service, cluster: Cluster, rate: float) -> tuple[Outcome, Simulation]:
    """A crowd that comes at once."""
    simulation = Simulation(service, cluster, crowd(rate))
    simulation.run(CROWD_AT + CROWD_SECONDS + 5 * MINUTE)
    return outcome("crowd", rate, simulation), simulation


def simulate_zone_loss(service: Service, cluster: Cluster, rate: float) -> tuple[Outcome, Simulation]:
    """One zone ends, with the pods that its share of the load needs."""
    simulation = Simulation(service, cluster, lambda _: rate)
    simulation.run(LOST_AT)
    simulation.lose_zone(0)
    simulation.run(7 * MINUTE)
    return outcome("zone loss", rate, simulation), simulation


def pods_needed(service: Service, rate: float, seconds: float = 60.0) -> int:
    """The fewest pods that answer 95 % of steady requests within `SLOW`, by events."""
    low, high = 0, max(1, math.ceil(4 * rate * (service.batch + service.request)) + 1)
    while high - low > 1:
        pods = (low + high) // 2
        simulation = Simulation(service, Cluster(least=pods, scaler="none"), lambda _: rate, seed=pods)
        simulation.run(seconds)
        fast = sum(latency <= SLOW for latency in simulation.latencies)
        if fast >= 0.95 * simulation.arrived - pods * service.max_batch:
            high = pods
        else:
            low = pods
    return high


def law(service: Service, rates: list[float]) -> tuple[float, float, list[int]]:
    """Pods = a * rate + b * sqrt(rate), fitted to what events say at these rates; a, b, and the pods."""
    pods = [pods_needed(service, rate) for rate in rates]
    matrix = np.array([[rate, math.sqrt(rate)] for rate in rates])
    a, b = np.linalg.lstsq(matrix, np.array(pods, dtype=float), rcond=None)[0]
    return float(a), float(b), pods


def predicted(service: Service, pods: int, quota: float, rate: float, seconds: float, seed: int) -> dict[str, float]:
    """Mean, median and 95th percentile of latencies in seconds at so many pods under a CPU quota, to which requests
    come for so many seconds, and how many are `answered` a second meanwhile."""
    cluster = Cluster(least=pods, scaler="none")
    simulation = Simulation(
        replace(service, cpus=quota), cluster, lambda now: rate if now < seconds else 0.0, seed=seed
    )
    simulation.run(seconds)
    answered = len(simulation.latencies) / seconds
    simulation.run(ENOUGH)
    p50, p95 = map(float, np.quantile(simulation.latencies, [0.5, 0.95]))
    return {"mean": float(np.mean(simulation.latencies)), "p50": p50, "p95": p95, "answered": answered}
