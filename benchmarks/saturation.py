"""Overload: arrivals that do not wait for answers, up to three times the capacity.

A good server keeps answering as many requests as it can, on time, and refuses the rest at once; a bad one answers all
of them late. Writes docs/benchmarks/saturation.md.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import matplotlib as mpl
import numpy as np
import psutil
import uvloop
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from matplotlib import pyplot as plt

from benchmarks.graphs import CLASSIFIER, answers, make_repository
from benchmarks.load import INFER, check, infer_request
from benchmarks.options import EXPORTED, Options, written_by
from benchmarks.servers import Contestant, Running, running

MODEL, ITEMS = CLASSIFIER, 8
PHOTOS = {"images": np.random.default_rng(0).integers(0, 256, (ITEMS, 32, 32, 3), np.uint8)}
REQUEST = infer_request(MODEL, PHOTOS).SerializeToString()
SECONDS, DEADLINE = 10, 0.5
LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
CALIBRATION_CALLERS = 16
COLUMNS = (
    "offered",
    "goodput/s",
    "of peak",
    "accepted p50 / p99 ms",
    "refused",
    "refusal p99 ms",
    "late",
    "errors",
    "MB",
)


@dataclass
class Outcome:
    """What became of the requests of one load."""

    seconds: float
    sent: int = 0
    accepted: list[float] = field(default_factory=list)  # seconds each
    refused: list[float] = field(default_factory=list)
    without_retry_info: int = 0
    late: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    memory: float = 0.0

    @property
    def goodput(self) -> float:
        """Answers within the deadline, per second."""
        return len(self.accepted) / self.seconds


def run(options: Options) -> None:
    """Find the server's capacity, offer multiples of it, and write the report.

    Raises:
        RuntimeError: the server's answer is wrong, or, in brief, a request failed that was neither late nor refused.
    """
    seconds = options.seconds_or(SECONDS)
    loads = LOADS[:1] if options.brief else LOADS
    with tempfile.TemporaryDirectory() as directory:
        repository = Path(directory, "repository")
        make_repository(EXPORTED, repository, 1)
        with running(Contestant("Lectern", "lectern"), repository, (MODEL,)) as server:
            check(server.target, infer_request(MODEL, PHOTOS), answers(repository, MODEL, PHOTOS))
            capacity, outcomes = uvloop.run(offer_all(server, loads, seconds))
    for outcome in outcomes if options.brief else ():
        if outcome.failed or outcome.without_retry_info or not outcome.accepted:
            raise RuntimeError(f"below the capacity: {outcome}")
    draw(capacity, loads, outcomes, options.reports / "saturation.png")
    options.write("saturation.md", report(capacity, loads, outcomes, seconds))


async def offer_all(server: Running, loads: Sequence[float], seconds: float) -> tuple[float, list[Outcome]]:
    """Capacity in requests per second, and the outcome of each load."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = channel.unary_unary(INFER)
        await closed_loop(call, 2)
        capacity = await closed_loop(call, seconds)
        outcomes = []
        for load in loads:
            print(f"offering {load:g} x {capacity:.0f} requests/s", file=sys.stderr)
            outcome = await offer(call, load * capacity, seconds)
            outcome.memory = psutil.Process(server.pid).memory_info().rss / 1e6
            outcomes.append(outcome)
            await asyncio.sleep(1)
        return capacity, outcomes


async def closed_loop(call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], seconds: float) -> float:
    """Requests per second that callers get who wait for their answers."""
    end, answered = time.monotonic() + seconds, 0

    async def caller() -> None:
        nonlocal answered
        while time.monotonic() < end:
            await call(REQUEST)
            answered += 1

    await asyncio.gather(*(caller() for _ in range(CALIBRATION_CALLERS)))
    return answered / seconds


async def offer(call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], rate: float, seconds: float) -> Outcome:
    """Send at `rate` with exponential gaps, whatever comes back."""
    outcome, gaps = Outcome(seconds), np.random.default_rng(0)
    tasks = set()

    async def send() -> None:
        started = time.monotonic()
        try:
            await call(REQUEST, timeout=DEADLINE)
            outcome.accepted.append(time.monotonic() - started)
        except grpc.aio.AioRpcError as error:
            _note(outcome, error, time.monotonic() - started)

    start = time.monotonic()
    due = start
    while due < start + seconds:
        if (pause := due - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(send())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        outcome.sent += 1
        due += gaps.exponential(1 / rate)
    await asyncio.gather(*tasks)
    return outcome


def _note(outcome: Outcome, error: grpc.aio.AioRpcError, seconds: float) -> None:
    match error.code():
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            outcome.refused.append(seconds)
            status = rpc_status.from_call(error)
            details = status.details if status else []
            outcome.without_retry_info += not any(d.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for d in details)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            outcome.late += 1
        case code:
            outcome.failed[code.name] = outcome.failed.get(code.name, 0) + 1


def report(capacity: float, loads: Sequence[float], outcomes: Sequence[Outcome], seconds: float) -> str:
    """Markdown."""
    peak = max(o.goodput for o in outcomes)
    lines = [
        "# Saturation",
        "",
        f"{written_by()}: requests of {ITEMS} photos to `{MODEL}` with exponential gaps for {seconds:g} s a load, each "
        f"with a deadline of {DEADLINE * 1000:.0f} ms; client on the same "
        f"cores. {CALIBRATION_CALLERS} callers who wait for their answers get {capacity:.0f} requests/s (1.0 x).",
        "",
        "![goodput over offered load](saturation.png)",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- " * len(COLUMNS) + "|",
    ]
    for load, o in zip(loads, outcomes, strict=True):
        accepted, refused = (_percentiles(times) for times in (o.accepted, o.refused))
        errors = ", ".join(f"{n} {code}" for code, n in o.failed.items()) or "0"
        lines.append(
            f"| {load:g} x | {o.goodput:.0f} | {o.goodput / peak:.2f} | {accepted[0]:.0f} / {accepted[1]:.0f} | "
            f"{len(o.refused)} of {o.sent} | {refused[1]:.0f} | {o.late} | {errors} | {o.memory:.0f} |"
        )
    lines += ["", f"Refusals without RetryInfo: {sum(o.without_retry_info for o in outcomes)}."]
    return "\n".join(lines) + "\n"


def _percentiles(times: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    if not times:
        return 0.0, 0.0
    return 1000 * statistics.median(times), 1000 * float(np.percentile(times, 99))


def draw(capacity: float, loads: Sequence[float], outcomes: Sequence[Outcome], path: Path) -> None:
    """Goodput, refusals and late answers over the offered load."""
    mpl.use("Agg")
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(loads, [o.goodput for o in outcomes], "o-", label="answered in time")
    axis.plot(loads, [len(o.refused) / o.seconds for o in outcomes], "s--", label="refused at once")
    axis.plot(loads, [o.late / o.seconds for o in outcomes], "^:", label="late")
    axis.axhline(capacity, color="grey", linewidth=0.8)
    axis.set_xlabel("offered load, multiples of capacity")
    axis.set_ylabel("requests/s")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
