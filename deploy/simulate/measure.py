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
CGROUP = Path("/sys/fs/cgroup/cpu")  # version 1
PERIOD_SECONDS = 0.1
"""Over which the kernel counts a quota, as Kubernetes leaves it."""
QUOTA = 0.3
"""CPUs of a pod here: four pods and the load's own process fit on a machine of two."""
LOADS = (0.4, 0.6)
"""Of what the pods can take."""
WARM_SECONDS, CLOSED_SECONDS, SECONDS = 2.0, 4.0, 15.0


@dataclass(frozen=True)
class Times:
    """A batch of n requests takes `batch + n * request` CPU seconds.

    Args:
        idle: CPU seconds a second of a pod without calls.
        start: seconds from the start of a pod's process to its first answer, on a whole CPU.
    """

    batch: float
    request: float
    idle: float
    start: float


@dataclass(frozen=True)
class Run:
    """Requests that arrived at random at some pods, and their latency in seconds."""

    pods: int
    quota: float
    rate: float
    seconds: float
    mean: float
    p50: float
    p95: float


def cgroup(name: str) -> Path:
    """A new cgroup, for whose processes all others wait."""
    directory = CGROUP / f"lectern-{os.getpid()}-{name}"
    directory.mkdir()
    (directory / "cpu.shares").write_text("262144")
    return directory


def enter(directory: Path) -> None:
    """Put this process into a cgroup."""
    (directory / "cgroup.procs").write_text(str(os.getpid()))


class Pod:
    """A server process in a cgroup of its own.

    Args:
        quota: CPUs; None = no limit.
    """

    def __init__(self, directory: Path, quota: float | None) -> None:
        self.directory = directory
        self.cgroup = cgroup(directory.name)
        if quota:
            period = int(PERIOD_SECONDS * 1e6)
            (self.cgroup / "cpu.cfs_period_us").write_text(str(period))
        started = time.monotonic()
        command = [sys.executable, "-m", "lectern", "serve", "classify", "--port", "0", "--metrics-port", "0"]
        environment = os.environ | {"LECTERN_LOG_FORMAT": "json", "LECTERN_DRAIN_PAUSE_SECONDS": "0"}
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stderr=log, env=environment, preexec_fn=lambda: enter(self.cgroup)
            )
        self.target, self.metrics = self._wait(directory / "log")
        self.start_seconds = time.monotonic() - started
        if quota:
            (self.cgroup / "cpu.cfs_quota_us").write_text(str(int(quota * PERIOD_SECONDS * 1e6)))

    def _wait(self, log: Path) -> tuple[str, str]:
        while self.process.poll() is None:
            for line in log.read_text().splitlines(keepends=True):
                if line.endswith("\n") and '"message": "serving"' in line:
                    ready = json.loads(line)
                    return ready["target"], f"http://127.0.0.1:{ready['metrics_port']}/metrics"
            time.sleep(0.02)
        raise SystemExit(log.read_text())

    def cpu_seconds(self) -> float:
        """CPU time of the process so far."""
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")

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
        (self.cgroup / "cpu.cfs_quota_us").write_text("-1")
        self.process.terminate()
        self.process.wait()
        while self.cgroup.exists():
            try:
                self.cgroup.rmdir()
            except OSError:
                time.sleep(0.1)


@contextmanager
def running(quota: float | None, count: int) -> Iterator[list[Pod]]:
    """So many pods, which know no load yet."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        pods = []
        for n in range(count):
            (Path(directory) / str(n)).mkdir()
            pods.append(Pod(Path(directory) / str(n), quota))
            stack.callback(pods[-1].stop)
        yield pods


def in_turn(pods: Sequence[Pod], rate: float, seconds: float, seed: int) -> list[float]:
    """Latencies of requests that arrive at random, `rate` a second, and go to the pods in turn as round_robin does."""
    request = CAPABILITY.example(ROOT / "docs" / "examples")
    latencies: list[float] = []
    done = threading.Semaphore(0)
    generator = random.Random(seed)
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(pod.target)) for pod in pods]
        stubs = [ClassifyServiceStub(channel) for channel in channels]

        def ended(future: grpc.Future, due: float) -> None:
            future.result()
            latencies.append(time.perf_counter() - due)
            done.release()

        due, end, sent = time.perf_counter(), time.perf_counter() + seconds, 0
        while (due := due + generator.expovariate(rate)) < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            future = stubs[sent % len(stubs)].ClassifyImage.future(request, timeout=60)
            future.add_done_callback(lambda f, due=due: ended(f, due))
            sent += 1
        for _ in range(sent):
            done.acquire()
    return latencies


def closed(pod: Pod, callers: int, seconds: float) -> tuple[float, float]:
    """CPU seconds of a request, and items of a batch, with so many callers that each wait for their answer."""
    request = CAPABILITY.example(ROOT / "docs" / "examples")
    counts = [0] * callers
    end = time.perf_counter() + seconds
    (batches, items), cpu = pod.batches(), pod.cpu_seconds()

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
    cpu = pod.cpu_seconds() - cpu
    more_batches, more_items = pod.batches()
    return cpu / sum(counts), (more_items - items) / (more_batches - batches)


def times() -> Times:
    """The times of one pod without a quota."""
    with running(None, 1) as (pod,):
        closed(pod, 8, WARM_SECONDS)
        before = pod.cpu_seconds()
        time.sleep(5)
        idle = (pod.cpu_seconds() - before) / 5
        points = [closed(pod, callers, CLOSED_SECONDS) for callers in (1, 2, 4, 8)]
        # CPU of a request = batch / n + request, least squares over the mean batches.
        matrix = np.array([[1 / size, 1.0] for _, size in points])
        batch, request = np.linalg.lstsq(matrix, np.array([cpu for cpu, _ in points]), rcond=None)[0]
        sys.stderr.write(f"{points}\n")
        return Times(float(batch), float(request), idle, pod.start_seconds)


def run(pods: int, rates: Sequence[float]) -> Iterator[Run]:
    """Random arrivals at pods under the quota, at one rate after the other."""
    with running(QUOTA, pods) as servers:
        for seed, rate in enumerate(rates):
            in_turn(servers, rate, WARM_SECONDS, seed)
            latencies = in_turn(servers, rate, SECONDS, seed + 100)
            p50, p95 = np.quantile(latencies, [0.5, 0.95])
            yield Run(pods, QUOTA, rate, SECONDS, float(np.mean(latencies)), float(p50), float(p95))


def main() -> None:
    """Write the file."""
    own = cgroup("load")
    enter(own)
    try:
        _measure()
    finally:
        enter(CGROUP)
        own.rmdir()


def _measure() -> None:
    service = times()
    sys.stderr.write(f"{service}\n")
    capacity = (QUOTA - service.idle) / (service.batch + service.request)
    runs = [r for pods in (2, 4) for r in run(pods, [load * capacity * pods for load in LOADS])]
    document = {"times": asdict(service), "runs": [asdict(r) for r in runs]}
    FILE.write_text(json.dumps(document, indent=1) + "\n")
    sys.stderr.write(FILE.read_text())
