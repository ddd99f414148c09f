"""Measure what the simulator needs and what it must predict: real servers, each under a CPU quota as in a pod.

`python deploy/simulate measure` writes measured.json. It needs root, for cgroups, and a quiet machine.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from services.classify import CAPABILITY

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("measured.json")
CPU, ACCOUNTS = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpuacct")  # version 1
PERIOD_SECONDS = 0.1
"""Over which the kernel counts a quota, as Kubernetes leaves it."""
QUOTA = 0.2
"""CPUs of a pod here: four pods and the load's own process fit on a machine of two."""
PODS, LOADS, OVERLOAD = (2, 4), (0.5, 0.7), 2.0
"""Of what the pods can take; under an overload it is seen what they do take."""
ALONE, APART_SECONDS, AFTER_SECONDS = 150, 0.03, 0.003
"""Requests that meet no other, the mean time between two, and when after its answer a pod is done with one."""
LIGHT_RATE, LIGHT_SECONDS = 28.0, 8.0
"""Requests a second for each pod, of which few meet where there is no quota."""
PERCENTILES = np.linspace(0.005, 0.995, 100)
WARM_SECONDS, CLOSED_SECONDS, SECONDS, OVERLOAD_SECONDS = 5.0, 4.0, 15.0, 6.0
ROUNDS = 3


@dataclass(frozen=True)
class Times:
    """A batch of n requests takes `batch + n * request` CPU seconds.

    Args:
        idle: CPU seconds a second of a pod without calls.
        start: seconds from the start of a pod's process to its first answer, on a whole CPU.
        alone: percentiles of the CPU seconds of requests that met no other.
    """

    batch: float
    request: float
    idle: float
    start: float
    alone: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """Requests that arrived at random at some pods, and their latency in seconds.

    Args:
        load: the rate as a share of what the pods were expected to take.
        seed: of the arrivals.
        answered: a second, while requests arrived.
        cpu: CPU seconds of a request, by the accounts of the pods' cgroups.
        machine: the machine's load average, others' processes included.
    """

    pods: int
    quota: float
    load: float
    rate: float
    seconds: float
    seed: int
    mean: float
    p50: float
    p95: float
    answered: float
    cpu: float
    machine: float


class Cgroup:
    """A new cgroup, for whose processes all others wait."""

    def __init__(self, name: str) -> None:
        self.cpu, self.accounts = (root / f"lectern-{os.getpid()}-{name}" for root in (CPU, ACCOUNTS))
        for directory in (self.cpu, self.accounts):
            directory.mkdir(exist_ok=True)  # both may be one
        (self.cpu / "cpu.shares").write_text("262144")
        (self.cpu / "cpu.cfs_period_us").write_text(str(int(PERIOD_SECONDS * 1e6)))

    def enter(self) -> None:
        """Put this process into it."""
        for directory in (self.cpu, self.accounts):
            (directory / "cgroup.procs").write_text(str(os.getpid()))

    def limit(self, cpus: float | None) -> None:
        """Let its processes have so many CPUs; None = no limit."""
        (self.cpu / "cpu.cfs_quota_us").write_text(str(int(cpus * PERIOD_SECONDS * 1e6) if cpus else -1))

    def seconds(self) -> float:
        """CPU time of its processes so far."""
        return int((self.accounts / "cpuacct.usage").read_text()) / 1e9

    def remove(self) -> None:
        """When its processes have ended."""
        for directory in (self.cpu, self.accounts):
            while directory.exists():
                try:
                    directory.rmdir()
                except OSError:
                    time.sleep(0.1)


class Pod:
    """A server process in a cgroup of its own, which has answered calls for a while: at first it is slower."""

    def __init__(self, directory: Path) -> None:
        self.cgroup = Cgroup(directory.name)
        started = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "lectern",
            "serve",
            "classify",
            "--port",
            "0",
            "--http-port",
            "off",
            "--metrics-port",
            "0",
        ]
        environment = os.environ | {"LECTERN_LOG_FORMAT": "json", "LECTERN_DRAIN_PAUSE_SECONDS": "0"}
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stderr=log, env=environment, preexec_fn=self.cgroup.enter
            )
        self.target, self.metrics = self._wait(directory / "log")
        self.start_seconds = time.monotonic() - started
        closed(self, 8, WARM_SECONDS)

    def _wait(self, log: Path) -> tuple[str, str]:
        while self.process.poll() is None:
            for line in log.read_text().splitlines(keepends=True):
                if line.endswith("\n") and '"message": "serving"' in line:
                    ready = json.loads(line)
                    return ready["target"], f"http://127.0.0.1:{ready['metrics_port']}/metrics"
            time.sleep(0.02)
        raise SystemExit(log.read_text())

    def batches(self) -> tuple[float, float]:
        """Batches and items so far."""
        text = urllib.request.urlopen(self.metrics).read().decode()
        values = {"count": 0.0, "sum": 0.0}
        for line in text.splitlines():
            for what in values:
                if line.startswith(f"lectern_batch_size_{what}"):
                    values[what] += float(line.rsplit(" ", 1)[1])
        return values["count"], values["sum"]

    def stop(self) -> None:
        """End the process and remove its cgroup."""
        self.cgroup.limit(None)
        self.process.terminate()
        self.process.wait()
        self.cgroup.remove()


@contextmanager
def running(count: int) -> Iterator[list[Pod]]:
    """So many pods, without a limit."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        pods = []
        for n in range(count):
            (Path(directory) / str(n)).mkdir()
            pods.append(Pod(Path(directory) / str(n)))
            stack.callback(pods[-1].stop)
        yield pods


def in_turn(pods: Sequence[Pod], rate: float, seconds: float, seed: int) -> tuple[list[float], float]:
    """Latencies of requests that arrive at random, `rate` a second, and go to the pods in turn as round_robin does; and
    how many were answered a second while they arrived."""
    request = CAPABILITY.example(ROOT / "docs" / "examples")
    latencies: list[float] = []
    done = threading.Semaphore(0)
    generator = random.Random(seed)
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(pod.target)) for pod in pods]
        stubs = [ClassifyServiceStub(channel) for channel in channels]

        def ended(future: grpc.Future, due: float) -> None:
            if future.exception() is None:
                latencies.append(time.perf_counter() - due)
            done.release()

        due, end, sent = time.perf_counter(), time.perf_counter() + seconds, 0
        while (due := due + generator.expovariate(rate)) < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            future = stubs[sent % len(stubs)].ClassifyImage.future(request, timeout=60)
            future.add_done_callback(lambda f, due=due: ended(f, due))
            sent += 1
        answered = len(latencies) / seconds
        for _ in range(sent):
            done.acquire()
    if len(latencies) < sent:
        raise SystemExit(f"{sent - len(latencies)} of {sent} requests failed")
    return latencies, answered


def closed(pod: Pod, callers: int, seconds: float) -> tuple[float, float]:
    """CPU seconds of a request, and items of a batch, with so many callers that each wait for their answer."""
    request = CAPABILITY.example(ROOT / "docs" / "examples")
    counts = [0] * callers
    end = time.perf_counter() + seconds
    (batches, items), cpu = pod.batches(), pod.cgroup.seconds()

    def call(n: int, stub: ClassifyServiceStub) -> None:
        while time.perf_counter() < end:
            stub.ClassifyImage(request)
            counts[n] += 1

    with grpc.insecure_channel(pod.target) as channel:
        threads = [threading.Thread(target=call, args=(n, ClassifyServiceStub(channel))) for n in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    cpu = pod.cgroup.seconds() - cpu
    more_batches, more_items = pod.batches()
    return cpu / sum(counts), (more_items - items) / (more_batches - batches)


def alone(pod: Pod, seed: int) -> Iterator[float]:
    """CPU seconds of requests that meet no other."""
    request = CAPABILITY.example(ROOT / "docs" / "examples")
    generator = random.Random(seed)
    with grpc.insecure_channel(pod.target) as channel:
        stub = ClassifyServiceStub(channel)
        for _ in range(ALONE):
            time.sleep(generator.expovariate(1 / APART_SECONDS))
            before = pod.cgroup.seconds()
            stub.ClassifyImage(request)
            time.sleep(AFTER_SECONDS)
            yield pod.cgroup.seconds() - before


def times(seed: int) -> Times:
    """The times of a pod under the quota: caches grow cold while it waits for its next period."""
    with running(1) as (pod,):
        pod.cgroup.limit(QUOTA)
        before = pod.cgroup.seconds()
        time.sleep(CLOSED_SECONDS)
        idle = (pod.cgroup.seconds() - before) / CLOSED_SECONDS
        costs = list(alone(pod, seed))
        points = [(float(np.mean(costs)), 1.0)] + [closed(pod, callers, CLOSED_SECONDS) for callers in (4, 8, 16)]
        # CPU of a request = batch / n + request, least squares over the mean batches.
        matrix = np.array([[1 / size, 1.0] for _, size in points])
        batch, request = np.linalg.lstsq(matrix, np.array([cpu for cpu, _ in points]), rcond=None)[0]
        sys.stderr.write(f"CPU seconds of a request, items of a batch: {points}\n")
        return Times(float(batch), float(request), idle, pod.start_seconds, percentiles(costs))


def percentiles(sample: Sequence[float]) -> tuple[float, ...]:
    """Of seconds, to the hundredth of a millisecond."""
    return tuple(np.quantile(sample, PERCENTILES).round(5).tolist())


def run(pods: int, capacity: float, round_: int) -> tuple[tuple[float, ...], list[Run]]:
    """Random arrivals at pods of which each takes `capacity` requests a second: percentiles of latencies without a
    quota where few meet, for pods and caller share the machine; then, under the quota, the loads, and the overload."""
    runs = []
    with running(pods) as servers:
        light, _ = in_turn(servers, LIGHT_RATE * pods, LIGHT_SECONDS, seed=2000 + round_)
        for pod in servers:
            pod.cgroup.limit(QUOTA)
        in_turn(servers, LOADS[0] * capacity * pods, WARM_SECONDS, seed=1000 + round_)
        for place, load in enumerate((*LOADS, OVERLOAD)):
            rate, seconds = load * capacity * pods, SECONDS if load < 1 else OVERLOAD_SECONDS
            seed = 100 * round_ + place
            before = sum(pod.cgroup.seconds() for pod in servers)
            latencies, answered = in_turn(servers, rate, seconds, seed)
            cpu = (sum(pod.cgroup.seconds() for pod in servers) - before) / len(latencies)
            p50, p95 = map(float, np.quantile(latencies, [0.5, 0.95]))
            figures = (float(np.mean(latencies)), p50, p95, answered, cpu, os.getloadavg()[0])
            runs.append(Run(pods, QUOTA, load, rate, seconds, seed, *figures))
            sys.stderr.write(f"{runs[-1]}\n")
    return percentiles(light), runs


def main() -> None:
    """Write the file."""
    own = Cgroup("load")
    own.enter()
    try:
        _measure()
    finally:
        for root in (CPU, ACCOUNTS):
            (root / "cgroup.procs").write_text(str(os.getpid()))
        own.remove()


def _measure() -> None:
    measured, runs = [], []
    light: dict[int, list[float]] = {pods: [] for pods in PODS}
    for round_ in range(ROUNDS):
        # Each round times a pod anew: the machine may have become busier.
        measured.append(times(round_))
        service = measured[-1]
        capacity = (QUOTA - service.idle) / (service.batch + service.request)
        for pods in PODS:
            latencies, more = run(pods, capacity, round_)
            light[pods] += latencies
            runs += more
    mean = {
        name: float(np.mean([getattr(t, name) for t in measured])) for name in ("batch", "request", "idle", "start")
    }
    costs = [cost for t in measured for cost in t.alone]
    document = {"times": mean, "alone": costs, "light": light, "runs": [asdict(r) for r in runs]}
    FILE.write_text(json.dumps(document) + "\n")
