"""`make bench`: Lectern and its peers on the same graphs, in turns; writes docs/benchmarks/throughput.md."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import grpc
import matplotlib as mpl
import numpy as np
import onnxruntime
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from benchmarks.graphs import FEATURES, make_repository
from benchmarks.load import INFER, Measurement, check, infer_request, measure
from benchmarks.servers import Contestant, running

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks" / "throughput.md"
CALLERS = (1, 8, 32, 128)
ITEMS = 8
SHAPES: dict[str, tuple[str, tuple[int, ...], type[np.generic]]] = {
    "image_classifier": ("images", (32, 32, 3), np.uint8),
    "mlp": ("features", (FEATURES,), np.float32),
}
ECHO = "echo"
BARE_PYTHON = "bare Python gRPC server"
NATIVE = ("--transport", "native")
CONTESTANTS = (
    Contestant("Triton, 1 instance", "triton", 1),
    Contestant("Triton, 2 instances", "triton", 2),
    Contestant("Lectern, 1 instance", "lectern", 1),
    Contestant("Lectern, 2 instances", "lectern", 2),
    Contestant("Lectern, 2 workers", "lectern", 1, ("--workers", "2")),
    Contestant("Lectern, native transport, 1 instance", "lectern", 1, NATIVE),
    Contestant("Lectern, native transport, 2 instances", "lectern", 2, NATIVE),
    Contestant(BARE_PYTHON, "minimal", 1),
    Contestant("MLServer", "mlserver", 1),
)
Key = tuple[str, str, int, int]  # model, contestant, callers, items of a request


def main() -> None:
    """Run every server `--repeats` times, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="rounds through all servers; medians are reported")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the rows of a GPU beside")
    parser.add_argument("--only", default="", help="part of the names of the servers to run, e.g. Lectern")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    contestants = [c for c in entrants(options.device) if options.only in c.name]
    bare: dict[str, list[float]] = defaultdict(list)
    found: dict[Key, list[Measurement]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        repositories = {n: Path(directory, str(n)) for n in (1, 2)}
        for instances, repository in repositories.items():
            make_repository(ROOT / "exported", repository, instances)
        for number in range(options.repeats):
            for model in SHAPES:
                bare[model].append(bare_rate(repositories[1] / model / "1" / "model.onnx", model, options.seconds))
            for contestant in contestants:
                print(f"round {number + 1}/{options.repeats}: {contestant.name}", file=sys.stderr)
                run_all(contestant, repositories[contestant.instances], options.seconds, found)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    medians = {model: statistics.median(rates) for model, rates in bare.items()}
    draw(medians, found, contestants, REPORT.with_suffix(".png"))
    REPORT.write_text(report(medians, found, contestants, options))
    print(REPORT.read_text())


def entrants(device: str) -> list[Contestant]:
    """Everything that can run here; on a GPU Lectern once more, on CUDA."""
    found = [c for c in CONTESTANTS if "native" not in c.arguments or importlib.util.find_spec("h2corn")]
    if device == "cuda":
        found += [
            Contestant(f"{c.name}, CUDA", c.kind, c.instances, (*c.arguments, "--device", "cuda"))
            for c in found
            if c.kind == "lectern"
        ]
    return found


def inputs_of(model: str, items: int) -> dict[str, NDArray[np.generic]]:
    """One request's tensors."""
    name, shape, dtype = SHAPES[model]
    return {name: np.zeros((items, *shape), dtype)}


def run_all(contestant: Contestant, repository: Path, seconds: float, found: dict[Key, list[Measurement]]) -> None:
    """Measure every model at every concurrency on one started server."""
    with running(contestant, repository, tuple(SHAPES)) as server:
        cells = [(model, callers, 1) for model in SHAPES for callers in CALLERS]
        if contestant.kind == "minimal":
            cells += [(ECHO, callers, 1) for callers in CALLERS]
        else:
            cells += [(model, CALLERS[1], ITEMS) for model in SHAPES]
        for model, callers, items in cells:
            inputs = inputs_of("mlp" if model == ECHO else model, items)
            if model != ECHO:
                check(server.target, model, inputs)
            result = measure(server.target, INFER, infer_request(model, inputs), server.pid, callers, seconds)
            found[model, contestant.name, callers, items].append(result)


def bare_rate(graph: Path, model: str, seconds: float) -> float:
    """Items per second of batch-1 `session.run` in two threads, without any server."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    counts, inputs = [0, 0], inputs_of(model, 1)
    end = time.monotonic() + seconds

    def work(i: int) -> None:
        while time.monotonic() < end:
            session.run(None, inputs)
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def report(
    bare: dict[str, float],
    found: dict[Key, list[Measurement]],
    contestants: list[Contestant],
    options: argparse.Namespace,
) -> str:
    """Markdown: a table for each graph, with the ratio to bare ONNX Runtime."""
    lines = [
        "# Throughput",
        "",
        f"Written by `make bench` on {os.cpu_count()} cores ({platform.system()}, Python {platform.python_version()}, "
        f"grpcio {grpc.__version__}, ONNX Runtime {onnxruntime.__version__}): ModelInfer of the Open Inference "
        f"Protocol by h2load on the same cores, one item a request, medians of {options.repeats} rounds of "
        f"{options.seconds:g} s in turns. In brackets: ratio to bare ONNX Runtime (batch 1, two threads, no server).",
        "",
        "![ratio to bare ONNX Runtime](throughput.png)",
    ]
    for model in SHAPES:
        lines += ["", f"## `{model}`", "", f"Bare ONNX Runtime: {bare[model]:,.0f} items/s.", ""]
        lines += table(model, bare[model], found, contestants)
    lines += ["", "## Transport alone", "", "`grpc.aio` giving back the bytes of the MLP's request.", ""]
    lines += [f"| {' | '.join(map(_callers, CALLERS))} | CPU s per 1,000 at 32 |", "| --- " * (len(CALLERS) + 1) + "|"]
    echo = {c: medians(found[key]) for c in CALLERS if (key := (ECHO, BARE_PYTHON, c, 1)) in found}
    if echo:
        lines.append(f"| {' | '.join(f'{m.rate:,.0f}' for m in echo.values())} | {echo[32].cpu:.3f} |")
    return "\n".join(lines) + "\n"


def table(model: str, bare: float, found: dict[Key, list[Measurement]], contestants: list[Contestant]) -> list[str]:
    """Rows of one graph."""
    heads = [*map(_callers, CALLERS), f"items/s, {ITEMS} a request", "p50 / p99 ms at 8", "p50 / p99 ms at 32"]
    heads += ["CPU s per 1,000 at 32", "MB"]
    lines = [f"| server | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name in (c.name for c in contestants):
        at = {c: medians(found[model, name, c, 1]) for c in CALLERS}
        cells = [f"{m.rate:,.0f} ({m.rate / bare:.2f})" for m in at.values()]
        several = found.get((model, name, CALLERS[1], ITEMS))
        cells.append(f"{medians(several).rate * ITEMS:,.0f}" if several else "")
        cells += [f"{at[c].p50:.1f} / {at[c].p99:.1f}" for c in CALLERS[1:3]]
        lines.append(f"| {name} | {' | '.join(cells)} | {at[32].cpu:.3f} | {at[32].memory:.0f} |")
    return lines


def medians(rounds: list[Measurement]) -> Measurement:
    """Field by field."""
    fields = ("rate", "p50", "p99", "cpu", "memory")
    return Measurement(**{f: statistics.median(getattr(m, f) for m in rounds) for f in fields})


def draw(
    bare: dict[str, float], found: dict[Key, list[Measurement]], contestants: list[Contestant], path: Path
) -> None:
    """Ratio to bare ONNX Runtime, a group of bars for each number of callers."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, len(SHAPES), figsize=(13, 4.6), layout="constrained")
    width = 0.85 / len(contestants)
    colours = plt.get_cmap("tab20")
    for axis, model in zip(axes, SHAPES, strict=True):
        for i, contestant in enumerate(contestants):
            ratios = [medians(found[model, contestant.name, c, 1]).rate / bare[model] for c in CALLERS]
            places = np.arange(len(CALLERS)) + (i - (len(contestants) - 1) / 2) * width
            axis.bar(places, ratios, width, label=contestant.name, color=colours(i))
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


if __name__ == "__main__":
    main()
