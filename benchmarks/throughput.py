"""Lectern and its peers on the same graphs, in turns; writes docs/benchmarks/throughput.md."""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from benchmarks.graphs import CLASSIFIER, FEATURES, answers, make_repository
from benchmarks.load import INFER, Call, Measurement, check, check_http, grpc_call, http_call, infer_request, measure
from benchmarks.options import EXPORTED, Options, written_by
from benchmarks.peers.onnx_graph import session
from benchmarks.servers import Contestant, Running, running, samples
from services.server.transport import native_transport

CALLERS = (1, 8, 32, 128)
ITEMS = 8
SECONDS, ROUNDS = 4, 3
SHAPES: dict[str, tuple[str, tuple[int, ...], type[np.generic]]] = {
    CLASSIFIER: ("images", (32, 32, 3), np.uint8),
    "mlp": ("features", (FEATURES,), np.float32),
}
ECHO = "echo"
BARE_PYTHON, NEWEST_GRPCIO = "bare Python gRPC server", "bare Python gRPC server, newest grpcio"
GRPC, NATIVE = ("--transport", "grpc"), ("--transport", "native")
CONTESTANTS = (
    Contestant("Triton, 1 instance", "triton", 1),
    Contestant("Triton, 2 instances", "triton", 2),
    Contestant("Lectern, 1 instance", "lectern", 1, GRPC),
    Contestant("Lectern, 2 instances", "lectern", 2, GRPC),
    Contestant("Lectern, 2 workers", "lectern", 1, (*GRPC, "--workers", "2")),
    Contestant("Lectern, native transport, 1 instance", "lectern", 1, NATIVE),
    Contestant("Lectern, native transport, 2 instances", "lectern", 2, NATIVE),
    Contestant(BARE_PYTHON, "minimal", 1),
    Contestant(NEWEST_GRPCIO, "newest grpcio", 1),
    Contestant("MLServer", "mlserver"),
    Contestant("KServe", "kserve"),
    Contestant("LitServe", "litserve"),
    Contestant("BentoML", "bentoml"),
    Contestant("Ray Serve", "ray"),
)
BRIEF = (
    "Triton, 1 instance",
    "Triton, 2 instances",
    "Lectern, 1 instance",
    "Lectern, native transport, 1 instance",
    "Lectern, native transport, 2 instances",
)
Key = tuple[str, str, int, int]  # model, contestant, callers, items of a request


@dataclass(frozen=True)
class Batches:
    """How many items ran so far, in how many batches."""

    items: float
    count: float

    def mean_since(self, earlier: Batches) -> float:
        """Mean size of a batch since then; nan = there was none."""
        count = self.count - earlier.count
        return (self.items - earlier.items) / count if count else math.nan


def run(options: Options) -> None:
    """Run every server in each round, and write the report."""
    contestants = [c for c in entrants(options) if any(part in c.name for part in options.only)]
    if not contestants:
        raise ValueError(f"no server's name has {options.only!r} in it")
    seconds, rounds = options.seconds_or(SECONDS), options.rounds_or(ROUNDS)
    bare: dict[str, list[float]] = defaultdict(list)
    measured: dict[Key, list[Measurement]] = defaultdict(list)
    software: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        repositories = {n: Path(directory, str(n)) for n in (1, 2)}
        for instances, repository in repositories.items():
            make_repository(EXPORTED, repository, instances)
        for number in range(rounds):
            for model in SHAPES:
                bare[model].append(bare_rate(repositories[1] / model / "1" / "model.onnx", model, seconds))
            for contestant in contestants:
                print(f"round {number + 1}/{rounds}: {contestant.name}", file=sys.stderr)
                repository = repositories[contestant.instances]
                software[contestant.name] = measure_all(contestant, repository, seconds, options.brief, measured)
    rates = {model: statistics.median(values) for model, values in bare.items()}
    medians = {key: median(values) for key, values in measured.items()}
    draw(rates, medians, list(software), options.reports / "throughput.png")
    options.write("throughput.md", report(rates, medians, software, seconds, rounds))


def entrants(options: Options) -> list[Contestant]:
    """Everything that can run here; on a GPU Lectern once more, on CUDA."""
    able = [c for c in CONTESTANTS if "native" not in c.arguments or native_transport]
    if options.brief:
        return [c for c in able if c.name in BRIEF]
    if options.device == "cuda":
        able += [
            Contestant(f"{c.name}, CUDA", c.kind, c.instances, (*c.arguments, "--device", "cuda"))
            for c in able
            if c.kind == "lectern"
        ]
    return able


def inputs_of(model: str, items: int) -> dict[str, NDArray[np.generic]]:
    """One request's tensors: noise, the same each time."""
    name, shape, dtype = SHAPES[model]
    return {name: np.random.default_rng(0).uniform(0, 255, (items, *shape)).astype(dtype)}


def measure_all(
    contestant: Contestant, repository: Path, seconds: float, brief: bool, measured: dict[Key, list[Measurement]]
) -> str:
    """Measure every model at every concurrency on one started server; returns what it is made of."""
    cells = [(model, callers, 1) for model in SHAPES for callers in ((CALLERS[1],) if brief else CALLERS)]
    if contestant.kind == "minimal":
        cells += [(ECHO, callers, 1) for callers in CALLERS]
    elif contestant.kind != "newest grpcio" and not brief:
        cells += [(model, CALLERS[1], ITEMS) for model in SHAPES]
    with running(contestant, repository, tuple(SHAPES)) as server:
        for model, callers, items in cells:
            call = call_of(server, repository, model, items)
            before = batches(contestant, server, model)
            result = measure(server.target, call, server.pid, callers, seconds)
            result = replace(result, batch=batches(contestant, server, model).mean_since(before))
            measured[model, contestant.name, callers, items].append(result)
    return server.software


def call_of(server: Running, repository: Path, model: str, items: int) -> Call:
    """What asks for this many items, once it was answered rightly."""
    inputs = inputs_of("mlp" if model == ECHO else model, items)
    request = infer_request(model, inputs)
    if model == ECHO:
        return grpc_call(INFER, request, request)
    expected = answers(repository, model, inputs)
    if server.body == "ModelInfer":
        return grpc_call(INFER, request, check(server.target, request, expected))
    ((array,), (rows,)) = inputs.values(), expected.values()
    return check_http(server.target, http_call(model, array, server.body), rows)


def batches(contestant: Contestant, server: Running, model: str) -> Batches:
    """What a server counts of a graph's batches; nothing if it is not Lectern."""
    if contestant.kind != "lectern":
        return Batches(0, 0)
    sizes = {
        sample.name: sample.value
        for sample in samples(server)
        if sample.name.startswith("lectern_batch_size") and sample.labels["model"] == model
    }
    return Batches(sizes.get("lectern_batch_size_sum", 0.0), sizes.get("lectern_batch_size_count", 0.0))


def bare_rate(graph: Path, model: str, seconds: float) -> float:
    """Items per second of batch-1 `session.run` in two threads, without any server."""
    bare = session(graph)
    counts, inputs = [0, 0], inputs_of(model, 1)
    end = time.monotonic() + seconds

    def work(i: int) -> None:
        while time.monotonic() < end:
            bare.run(None, inputs)
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def report(
    bare: dict[str, float], medians: dict[Key, Measurement], software: dict[str, str], seconds: float, rounds: int
) -> str:
    """Markdown: a table for each graph, with the ratio to bare ONNX Runtime."""
    lines = [
        "# Throughput",
        "",
        f"{written_by()}: ModelInfer of the Open Inference Protocol (LitServe and Ray Serve: raw values over HTTP/1.1; "
        f"BentoML: JSON) by h2load on the same cores, one item a request, medians of {rounds} rounds of {seconds:g} s "
        "in turns. In brackets: ratio to bare ONNX Runtime (batch 1, two threads, no server). The size of batches is "
        "the mean of `lectern_batch_size`.",
        "",
        "![ratio to bare ONNX Runtime](throughput.png)",
    ]
    for model in SHAPES:
        lines += ["", f"## `{model}`", "", f"Bare ONNX Runtime: {bare[model]:,.0f} items/s.", ""]
        lines += table(model, bare[model], medians, software)
    lines += transport(medians, software)
    return "\n".join(lines) + "\n"


def table(model: str, bare: float, medians: dict[Key, Measurement], software: dict[str, str]) -> list[str]:
    """Rows of one graph; what was not measured is empty."""
    heads = [*map(_callers, CALLERS), f"items/s, {ITEMS} a request", "p50 / p99 ms at 8", "p50 / p99 ms at 32"]
    heads += ["CPU s per 1,000 at 32", "MB", "items a batch at 8 / 32 / 128"]
    lines = [f"| server | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name, made_of in software.items():

        def cell(show: Callable[[Measurement], str], callers: int, items: int = 1, name: str = name) -> str:
            result = medians.get((model, name, callers, items))
            return show(result) if result else ""

        cells = [cell(lambda m: f"{m.rate:,.0f} ({m.rate / bare:.2f})", c) for c in CALLERS]
        cells.append(cell(lambda m: f"{m.rate * ITEMS:,.0f}", CALLERS[1], ITEMS))
        cells += [cell(lambda m: f"{m.p50:.1f} / {m.p99:.1f}", c) for c in CALLERS[1:3]]
        cells += [cell(lambda m: f"{m.cpu:.3f}", 32), cell(lambda m: f"{m.memory:.0f}", 32)]
        cells.append(" / ".join(cell(batch_size, callers) for callers in CALLERS[1:]))
        lines.append(f"| {name}{f' ({made_of})' if made_of else ''} | {' | '.join(cells)} |")
    return lines


def batch_size(result: Measurement) -> str:
    return "" if math.isnan(result.batch) else f"{result.batch:.1f}"


def transport(medians: dict[Key, Measurement], software: dict[str, str]) -> list[str]:
    """What grpc.aio costs alone, and whether a newer grpcio than the pin of pyproject.toml costs more, as 1.84 does."""
    echo = [medians.get((ECHO, BARE_PYTHON, c, 1)) for c in CALLERS]
    lines = ["", "## Transport alone", "", "`grpc.aio` giving back the bytes of the MLP's request, requests/s.", ""]
    lines += [f"| {' | '.join(map(_callers, CALLERS))} | CPU s per 1,000 at 32 |", "| --- " * (len(CALLERS) + 1) + "|"]
    if all(echo):
        lines.append(f"| {' | '.join(f'{m.rate:,.0f}' for m in echo if m)} | {echo[2].cpu:.3f} |")  # type: ignore[union-attr]
    if BARE_PYTHON in software and NEWEST_GRPCIO in software:
        pairs = [[medians["mlp", name, c, 1] for name in (NEWEST_GRPCIO, BARE_PYTHON)] for c in CALLERS]
        rates = " | ".join(f"{newest.rate / pinned.rate:.2f}" for newest, pinned in pairs)
        costs = " | ".join(f"{newest.cpu / pinned.cpu:.2f}" for newest, pinned in pairs)
        lines += ["", f"## {software[NEWEST_GRPCIO]} over {software[BARE_PYTHON]}", ""]
        lines += ["The bare Python gRPC server on the `mlp`; grpcio is pinned below 1.84 until this is 1.", ""]
        lines += [f"| | {' | '.join(map(_callers, CALLERS))} |", "| --- |" + " --- |" * len(CALLERS)]
        lines += [f"| requests/s | {rates} |", f"| CPU a request | {costs} |"]
    return lines


def median(rounds: list[Measurement]) -> Measurement:
    """Field by field."""
    return Measurement(**{f.name: statistics.median(getattr(m, f.name) for m in rounds) for f in fields(Measurement)})


def draw(bare: dict[str, float], medians: dict[Key, Measurement], names: list[str], path: Path) -> None:
    """Ratio to bare ONNX Runtime, a group of bars for each number of callers."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, len(SHAPES), figsize=(13, 4.6), layout="constrained")
    width = 0.85 / len(names)
    colours = plt.get_cmap("tab20")
    for axis, model in zip(axes, SHAPES, strict=True):
        for i, name in enumerate(names):
            results = [medians.get((model, name, c, 1)) for c in CALLERS]
            ratios = [m.rate / bare[model] if m else math.nan for m in results]
            places = np.arange(len(CALLERS)) + (i - (len(names) - 1) / 2) * width
            axis.bar(places, ratios, width, label=name, color=colours(i))
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set_xticks(range(len(CALLERS)), [_callers(c) for c in CALLERS])
        axis.set_title(model)
        axis.set_ylabel("requests/s over bare ONNX Runtime's")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def _callers(count: int) -> str:
    return f"{count} caller{'s' * (count > 1)}"
