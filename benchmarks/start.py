"""How long a server of every committed model takes to start, and how much memory; writes docs/benchmarks/start.md.

Servers that load graphs of gradients by their first call are compared with servers that load them at the start, over
both transports, in turns. Then each gets requests of every RPC, mixed, from eight callers.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil
from google.protobuf.message import Message

from artifacts.versions import CONFIG, served_cards
from benchmarks.explain import timed
from benchmarks.load import INFER, infer_request
from benchmarks.options import EXPORTED, Options, written_by
from benchmarks.rpcs import ANSWER_SECONDS, ask, rows, rpc_of
from services.runtime.config import parse_config
from services.runtime.gradient_graph import GRADIENTS

ROUNDS = 3
CALLS, CALLERS = 1000, 8
IDLE_SECONDS = 5.0  # longer than LECTERN_WATCH_SECONDS, after which an idle server returns its free memory
STOP_SECONDS = 60
MEBIBYTE = 2**20
RARE = (  # each runs hundreds of rows
    "certified by 100 copies",
    "SmoothGrad",
    "integrated gradients",
    "integrated gradients of 1.5 s of speech",
)
SETTINGS = {
    "LECTERN_LOG_FORMAT": "json",
    "LECTERN_LOG_LEVEL": "info",
    "LECTERN_DRAIN_PAUSE_SECONDS": "0",
    "LECTERN_ALLOW_ATTACKS": "true",
    "LECTERN_CODEC_SECONDS": str(ANSWER_SECONDS),
    "LECTERN_LIMITS__EPISODES": str(2 * CALLERS),  # all callers are one client, which gets half of the places
}
COLUMNS = (
    *("transport", "graphs of gradients", "cold: s", "CPU s", "MiB", "warm: s", "CPU s", "MiB"),
    "idle after calls, MiB",
)


@dataclass(frozen=True)
class Kind:
    """How a server is started.

    Args:
        preload: whether graphs of gradients are loaded at the start.
    """

    transport: str
    preload: bool

    @property
    def settings(self) -> Mapping[str, str]:
        return {"LECTERN_TRANSPORT": self.transport, "LECTERN_PRELOAD": str(self.preload)}


@dataclass(frozen=True)
class Start:
    """What a start took: seconds until the server served, seconds of CPU, and MiB of memory."""

    seconds: float
    cpu: float
    resident: float

    @classmethod
    def median(cls, starts: Sequence[Start]) -> Start:
        return cls(*(statistics.median(getattr(start, name) for start in starts) for name in cls.__annotations__))


@dataclass(frozen=True)
class Server:
    """A server that serves."""

    target: str
    process: psutil.Process
    start: Start

    @property
    def resident(self) -> float:
        return resident(self.process)


@contextmanager
def serving(kind: Kind, cache: Path) -> Iterator[Server]:
    """A server of every committed model, stopped in the end.

    Raises:
        RuntimeError: it ended before it served.
    """
    command = [sys.executable, "-m", "lectern", "serve", "--port", "0", "--http-port", "0", "--metrics-port", "0"]
    command += ["--repository", str(EXPORTED)]
    settings = {**SETTINGS, **kind.settings, "LECTERN_CACHE_DIR": str(cache)}
    begun = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | settings)
    log = process.stderr or io.StringIO()
    try:
        for line in log:
            if '"message": "serving"' in line:
                seconds, running = time.monotonic() - begun, psutil.Process(process.pid)
                cpu = running.cpu_times()
                threading.Thread(target=log.read, daemon=True).start()
                start = Start(seconds, cpu.user + cpu.system, resident(running))
                yield Server(json.loads(line)["target"], running, start)
                break
        else:
            raise RuntimeError(f"the server ended before it served, with code {process.wait()}")
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def resident(process: psutil.Process) -> float:
    """MiB of memory that it uses."""
    return float(process.memory_info().rss) / MEBIBYTE


def run(options: Options) -> None:
    """Start servers of each kind, call them, and write the report; in brief, one."""
    transports = ["grpc", *(["native"] if find_spec("services._native") else [])]
    kinds = [Kind(transport, preload) for transport in transports for preload in (True, False)]
    if options.brief:
        kinds = kinds[-1:]
    calls = CALLERS if options.brief else CALLS
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory, "warm")
        starts = measure_starts(kinds, options.rounds_or(ROUNDS), Path(directory))
        first = first_calls(kinds[-1], cache)
        idle = {kind: idle_after(kind, cache, calls) for kind in kinds}
    options.write("start.md", report(starts, idle, first, calls))


def measure_starts(kinds: Sequence[Kind], rounds: int, directory: Path) -> dict[Kind, tuple[Start, Start]]:
    """Medians of starts of each kind with an empty cache folder, and of the next starts with the same folder."""
    measured: dict[Kind, tuple[list[Start], list[Start]]] = {kind: ([], []) for kind in kinds}
    for turn in range(rounds):
        for i, kind in enumerate(kinds):
            for starts in measured[kind]:
                with serving(kind, directory / f"{turn}-{i}") as server:
                    starts.append(server.start)
                print(kind, server.start, file=sys.stderr)
    return {kind: (Start.median(cold), Start.median(warm)) for kind, (cold, warm) in measured.items()}


def first_calls(kind: Kind, cache: Path) -> dict[str, tuple[float, float]]:
    """Seconds of the first and the second call of each graph of gradients, after a start that has filled the cache."""
    with serving(kind, cache):
        pass
    with serving(kind, cache) as server:
        roles = [(role, name) for card in served_cards(EXPORTED) for role, name in card.graphs.items()]
        seconds = {}
        for name in sorted(name for role, name in roles if role in GRADIENTS):
            call = partial(ask, server.target, INFER, infer_request(name, zeros(name)))
            seconds[name] = timed(call), timed(call)
        return seconds


def zeros(graph: str) -> dict[str, np.ndarray]:
    """One item of each of the graph's inputs."""
    config = parse_config(graph, (EXPORTED / graph / CONFIG).read_bytes())
    return {spec.name: np.zeros((1, *(max(1, size) for size in spec.shape)), spec.dtype) for spec in config.inputs}


def mixed_requests() -> Iterator[Message]:
    """Each request of the report on RPCs once, and from then on all but the few that take most of the time."""
    listed = rows()
    yield from (row.request for row in listed)
    yield from cycle(row.request for row in listed if row.detail not in RARE)


def idle_after(kind: Kind, cache: Path, calls: int) -> float:
    """MiB that a server uses while it is idle after so many calls.

    Raises:
        RuntimeError: one of them failed.
    """
    with serving(kind, cache) as server:

        def call(request: Message) -> None:
            service, name = rpc_of(request)
            ask(server.target, f"/{service}/{name}", request)

        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(call, islice(mixed_requests(), calls)))
        time.sleep(IDLE_SECONDS)
        print(kind, server.resident, file=sys.stderr)
        return server.resident


def report(
    starts: Mapping[Kind, tuple[Start, Start]],
    idle: Mapping[Kind, float],
    first: Mapping[str, tuple[float, float]],
    calls: int,
) -> str:
    table = []
    for kind, (cold, warm) in starts.items():
        how = "at the start" if kind.preload else "by their first call"
        taken = (f"{s.seconds:.1f} | {s.cpu:.1f} | {s.resident:.0f}" for s in (cold, warm))
        table.append(f"| {kind.transport} | {how} | {' | '.join(taken)} | {idle[kind]:.0f} |")
    return "\n".join(
        [
            "# Start",
            "",
            f"{written_by()}: one process with every committed model. How long until it serves, how much CPU time and"
            " resident memory that takes, and how much it holds while it is idle afterwards.",
            "",
            "Cold: the first start with an empty `LECTERN_CACHE_DIR`. Warm: the next one. Medians of starts in turns."
            f" The calls are {calls:,} from {CALLERS} callers after a warm start: each request of [every RPC](rpcs.md)"
            f" in turn, but for {len(RARE)} that take seconds, which come once.",
            "They need some of the graphs of gradients. Once all are called, a server takes what it takes where"
            " they are loaded at the start.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|{' --- |' * len(COLUMNS)}",
            *table,
            "",
            "What the first call waits for such a graph, beside the second, of one item in an idle server that was"
            " started warm:",
            "",
            "| graph | first call, ms | second, ms |",
            "| --- | --- | --- |",
            *(f"| `{name}` | {1000 * one:.0f} | {1000 * two:.1f} |" for name, (one, two) in first.items()),
            "",
        ]
    )
