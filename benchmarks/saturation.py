"""Overload, the second part of `make bench`: arrivals that do not wait for answers, up to three times the capacity.

A good server keeps answering as many requests as it can, on time, and refuses the rest at once; a bad one answers all
of them late. Writes docs/benchmarks/saturation.md.
"""

from __future__ import annotations

import argparse
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
from tritonclient.grpc import service_pb2 as pb

from benchmarks.graphs import make_repository
from benchmarks.servers import Contestant, Running, running

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "saturation.md"
MODEL, ITEMS = "image_classifier", 8
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
METHOD = "/inference.GRPCInferenceService/ModelInfer"


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


def main() -> None:
    """Find the server's capacity, offer multiples of it, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--deadline", type=float, default=0.5, help="seconds that a caller waits")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        repository = Path(directory, "repository")
        make_repository(ROOT / "exported", repository, 1)
        with running(Contestant("Lectern", "lectern"), repository, (MODEL,)) as server:
            capacity, outcomes = uvloop.run(offer_all(server, options.seconds, options.deadline))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    draw(capacity, outcomes, REPORT.with_suffix(".png"))
    REPORT.write_text(report(capacity, outcomes, options))
    print(REPORT.read_text())


async def offer_all(server: Running, seconds: float, deadline: float) -> tuple[float, list[Outcome]]:
    """Capacity in requests per second, and the outcome of each load."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        call = channel.unary_unary(METHOD)
        await closed_loop(call, 2)
        capacity = await closed_loop(call, seconds)
        outcomes = []
        for load in LOADS:
            print(f"offering {load:g} x {capacity:.0f} requests/s", file=sys.stderr)
            outcome = await offer(call, load * capacity, seconds, deadline)
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
            await call(_request())
            answered += 1

    await asyncio.gather(*(caller() for _ in range(CALIBRATION_CALLERS)))
    return answered / seconds


async def offer(
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], rate: float, seconds: float, deadline: float
) -> Outcome:
    """Send at `rate` with exponential gaps, whatever comes back."""
    outcome, gaps, message = Outcome(seconds), np.random.default_rng(0), _request()
    tasks = set()

    async def send() -> None:
        started = time.monotonic()
        try:
            await call(message, timeout=deadline)
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


def _request() -> bytes:
    request = pb.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="images", datatype="UINT8", shape=[ITEMS, 32, 32, 3])
    request.raw_input_contents.append(bytes(ITEMS * 32 * 32 * 3))
    return request.SerializeToString()  # type: ignore[no-any-return]


def report(capacity: float, outcomes: Sequence[Outcome], options: argparse.Namespace) -> str:
    """Markdown."""
    peak = max(o.goodput for o in outcomes)
    lines = [
        "# Saturation",
        "",
        f"Written by `make bench`: requests of {ITEMS} photos to `{MODEL}` with exponential gaps for "
        f"{options.seconds:g} s a load, each with a deadline of {options.deadline * 1000:.0f} ms; client on the same "
        f"cores. {CALIBRATION_CALLERS} callers who wait for their answers get {capacity:.0f} requests/s (1.0 x).",
        "",
        "![goodput over offered load](saturation.png)",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- " * len(COLUMNS) + "|",
    ]
    for load, o in zip(LOADS, outcomes, strict=True):
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


def draw(capacity: float, outcomes: Sequence[Outcome], path: Path) -> None:
    """Goodput, refusals and late answers over the offered load."""
    mpl.use("Agg")
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(LOADS, [o.goodput for o in outcomes], "o-", label="answered in time")
    axis.plot(LOADS, [len(o.refused) / o.seconds for o in outcomes], "s--", label="refused at once")
    axis.plot(LOADS, [o.late / o.seconds for o in outcomes], "^:", label="late")
    axis.axhline(capacity, color="grey", linewidth=0.8)
    axis.set_xlabel("offered load, multiples of capacity")
    axis.set_ylabel("requests/s")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
