"""Pods, nodes and autoscalers as events: requests arrive, wait, share batches, and pods come and go."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import simpy

from scripts import autoscaling

PERIOD = 0.1
"""Seconds over which the kernel counts a CPU quota."""
CHECK = 1.0
"""Seconds after which an idle pod does what it does without requests (LECTERN_WATCH_SECONDS)."""
TOLERANCE = 0.1
"""Kubernetes's autoscaler leaves a ratio that is this near to 1 as it is."""


@dataclass(frozen=True)
class Service:
    """What a request costs a pod: a batch of n takes `batch + n * request` CPU seconds.

    Args:
        idle: CPU seconds a second of a pod without requests.
        start: seconds until a pod's process answers.
        cpus: the pod's limit. A pod computes one batch at a time, on one CPU at most.
        asked: CPUs that it requests, of which the autoscaler by CPU takes its share.
        max_batch: requests that run together.
        queue: requests that may wait in a pod; more are refused.
        alone: CPU seconds of requests that met no other, and seconds until the answer, as they were measured. A batch's
            CPU time varies as theirs, and what their answers took longer is added. Empty = nothing varies.
    """

    batch: float
    request: float
    idle: float = 0.0
    start: float = 5.0
    cpus: float = 2.0
    asked: float = 1.0
    max_batch: int = 8
    queue: int = 512
    alone: tuple[tuple[float, float], ...] = ()

    @cached_property
    def variants(self) -> list[tuple[float, float]]:
        """By what a batch's CPU time is multiplied, and how many seconds an answer takes beside it."""
        mean = sum(cpu for cpu, _ in self.alone) / max(1, len(self.alone))
        return [(cpu / mean, seconds - cpu) for cpu, seconds in self.alone] or [(1.0, 0.0)]


@dataclass(frozen=True)
class Cluster:
    """What pods run on, and how many there are.

    Args:
        least, most: pods that the autoscaler keeps between.
        scaler: `keda` (what waits and p95), `hpa` (CPU) or `none`.
        pods_per_node: by their CPU requests.
        node_seconds: until a new node takes pods.
        node_idle_seconds: after which an empty node goes.
        zones: among which nodes are spread.
    """

    least: int = autoscaling.LEAST
    most: int = 1000
    scaler: str = "keda"
    pods_per_node: int = 3
    node_seconds: float = 120.0
    node_idle_seconds: float = 600.0
    zones: int = 3


@dataclass
class Node:
    """A node of a zone; `pods` are those that it holds."""

    zone: int
    pods: int = 0
    empty_since: float = 0.0


@dataclass
class Sample:
    """The cluster at one moment, and the seconds since the one before."""

    time: float
    rate: float
    ready: int
    wanted: int
    nodes: int
    p95: float
    refused: int


@dataclass(eq=False)
class Pod:
    """A pod's queue: when each of its requests arrived."""

    node: Node
    phase: float
    ready: bool = False
    gone: bool = False
    waiting: deque[float] = field(default_factory=deque)
    under_way: int = 0
    wake: simpy.Event | None = None
    spent: float = 0.0
    period: int = -1


class Simulation:
    """One service.

    Args:
        rate: requests a second at a time in seconds.
        seed: of the arrivals.
        sample_seconds: between two samples.
    """

    def __init__(
        self,
        service: Service,
        cluster: Cluster,
        rate: Callable[[float], float],
        *,
        seed: int = 0,
        sample_seconds: float = autoscaling.POLL_SECONDS,
    ) -> None:
        self.service, self.cluster, self.rate = service, cluster, rate
        self.arrivals, self.random = random.Random(seed), random.Random(seed)
        self.env = simpy.Environment()
        self.pods: list[Pod] = []
        self.pending = 0
        self.nodes: list[Node] = []
        self.nodes_coming = 0
        self.latencies: list[float] = []
        self.samples: list[Sample] = []
        self.refused = self.lost = self.arrived = 0
        self.node_seconds = 0.0
        self._recent: list[float] = []
        self._wishes: deque[tuple[float, int]] = deque()
        self._turn = 0
        self._busy = 0.0
        self._ready: list[Pod] = []
        self._sample_seconds = sample_seconds
        for _ in range(cluster.least):
            self._add_pod(at_once=True)
        self.env.process(self._arrivals())
        self.env.process(self._control())

    def run(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.env.run(self.env.now + seconds)

    def lose_zone(self, zone: int) -> None:
        """End every node of a zone with its pods; what waited there is lost."""
        for pod in [p for p in self.pods if p.node.zone == zone]:
            self.lost += len(pod.waiting) + pod.under_way
            self._remove(pod)
            self.pending += 1
        self.nodes = [n for n in self.nodes if n.zone != zone]
        self._place()

    def ready(self) -> list[Pod]:
        """Pods that take requests."""
        return [pod for pod in self.pods if pod.ready]

    def _arrivals(self) -> simpy.events.ProcessGenerator:
        while True:
            rate = self.rate(self.env.now)
            if rate <= 0:
                yield self.env.timeout(1)
                continue
            yield self.env.timeout(self.arrivals.expovariate(rate))
            self.arrived += 1
            ready = self._ready
            if not ready:
                self.refused += 1
                continue
            self._turn += 1
            pod = ready[self._turn % len(ready)]
            if len(pod.waiting) >= self.service.queue:
                self.refused += 1
                continue
            pod.waiting.append(self.env.now)
            if pod.wake is not None:
                pod.wake.succeed()
                pod.wake = None

    def _serve(self, pod: Pod, start: float) -> simpy.events.ProcessGenerator:
        service, env = self.service, self.env
        yield env.timeout(start)
        if pod.gone:
            return
        pod.ready = True
        self._ready = self.ready()
        while not pod.gone:
            if not pod.waiting:
                pod.wake = env.event()
                yield pod.wake
                continue
            batch = [pod.waiting.popleft() for _ in range(min(len(pod.waiting), service.max_batch))]
            pod.under_way = len(batch)
            factor, outside = self.random.choice(service.variants)
            work = factor * (service.batch + service.request * len(batch))
            self._busy += work
            yield env.timeout(self._elapse(pod, work))
            if pod.gone:
                return
            pod.under_way = 0
            latencies = [env.now - arrived + outside for arrived in batch]
            self.latencies.extend(latencies)
            self._recent.extend(latencies)

    def _elapse(self, pod: Pod, work: float) -> float:
        """Seconds that so much CPU time takes under the pod's quota, which is counted anew each period."""
        if self.service.cpus >= 1:
            return work
        budget = self.service.cpus * PERIOD
        time = self.env.now + pod.phase
        while True:
            period = math.floor(time / PERIOD + 1e-9)
            if period != pod.period:
                checks = period % round(CHECK / PERIOD) == 0
                pod.period, pod.spent = period, self.service.idle * CHECK if checks else 0.0
            left = max(0.0, budget - pod.spent)
            until_end = (period + 1) * PERIOD - time
            step = min(work, left, until_end)
            work -= step
            pod.spent += step
            time += step
            if work <= 1e-12:
                return time - self.env.now - pod.phase
            time = (period + 1) * PERIOD

    def _control(self) -> simpy.events.ProcessGenerator:
        busy, refused = 0.0, 0
        while True:
            yield self.env.timeout(self._sample_seconds)
            now, ready = self.env.now, self._ready
            recent = sorted(self._recent)
            self._recent = []
            p95 = recent[int(0.95 * (len(recent) - 1))] if recent else 0.0
            used, busy = (self._busy - busy) / self._sample_seconds, self._busy
            self._scale(ready, p95, used)
            self._drop_nodes()
            self.node_seconds += len(self.nodes) * self._sample_seconds
            counts = (len(ready), self._wanted(), len(self.nodes))
            self.samples.append(Sample(now, self.rate(now), *counts, p95, self.refused - refused))
            refused = self.refused

    def _wanted(self) -> int:
        return len(self.pods) + self.pending

    def _scale(self, ready: list[Pod], p95: float, used: float) -> None:
        """As the autoscaler of Kubernetes does: by ratio, with a tolerance, up at once and down slowly."""
        if self.cluster.scaler == "none" or not ready:
            return
        if self.cluster.scaler == "hpa":
            wish = used / self.service.asked / (autoscaling.CPU_PERCENT / 100)
        else:
            waiting = sum(len(pod.waiting) for pod in ready)
            wish = max(waiting / autoscaling.WAITING, p95 / autoscaling.HEADROOM * len(ready))
        now, wanted = self.env.now, self._wanted()
        wish = wanted if abs(wish / wanted - 1) < TOLERANCE else math.ceil(wish)
        wish = min(max(wish, self.cluster.least), self.cluster.most)
        self._wishes.append((now, wish))
        down = autoscaling.BEHAVIOUR["scaleDown"]
        while self._wishes[0][0] < now - down["stabilizationWindowSeconds"]:
            self._wishes.popleft()
        if wish > wanted:
            share = self._sample_seconds / 30  # both policies are for 30 s
            for _ in range(min(wish - wanted, math.ceil(max(wanted, 2) * share))):
                self._add_pod()
        elif max(w for _, w in self._wishes) < wanted and now % 60 < self._sample_seconds:
            self._end(max(ready, key=lambda pod: (pod.node.empty_since, -pod.node.pods)))

    def _add_pod(self, at_once: bool = False) -> None:
        self.pending += 1
        self._place(at_once)

    def _place(self, at_once: bool = False) -> None:
        """Put pods that wait for a node on one, and ask for nodes if there are too few."""
        while self.pending:
            free = [node for node in self.nodes if node.pods < self.cluster.pods_per_node]
            if not free and at_once:
                self._add_node()
                continue
            if not free:
                break
            node = min(free, key=lambda n: (sum(p.node.zone == n.zone for p in self.pods), n.pods))
            node.pods += 1
            self.pending -= 1
            pod = Pod(node, self.random.random() * PERIOD)
            self.pods.append(pod)
            self.env.process(self._serve(pod, 0.0 if at_once else self.service.start))
        while self.nodes_coming * self.cluster.pods_per_node < self.pending:
            self.nodes_coming += 1
            self.env.process(self._bring_node())

    def _bring_node(self) -> simpy.events.ProcessGenerator:
        yield self.env.timeout(self.cluster.node_seconds)
        self.nodes_coming -= 1
        self._add_node()
        self._place()

    def _add_node(self) -> None:
        counts = [sum(node.zone == zone for node in self.nodes) for zone in range(self.cluster.zones)]
        self.nodes.append(Node(counts.index(min(counts)), empty_since=self.env.now))

    def _end(self, pod: Pod) -> None:
        """Stop a pod, which finishes what it accepted."""
        work = self.service.request * (len(pod.waiting) + pod.under_way) + self.service.batch
        self.latencies.extend(self.env.now - arrived + work for arrived in pod.waiting)
        self._remove(pod)

    def _remove(self, pod: Pod) -> None:
        pod.gone, pod.ready = True, False
        pod.node.pods -= 1
        pod.node.empty_since = self.env.now
        self.pods.remove(pod)
        self._ready = self.ready()

    def _drop_nodes(self) -> None:
        old = self.env.now - self.cluster.node_idle_seconds
        self.nodes = [n for n in self.nodes if n.pods or n.empty_since > old]
