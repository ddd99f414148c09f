"""Every graph on a GPU: does it answer as on the CPU, and how many rows a second are there beside bare ONNX Runtime?

`make bench DEVICE=cuda` runs it and writes docs/benchmarks/cuda.md. `python -m benchmarks device` takes the same steps
on the CPU, beside the CPU itself, to see that they work, and writes no report.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from artifacts.versions import CONFIG, own_graphs, served_cards, served_versions
from benchmarks.device_decoding import LEAST_EQUAL, ROWS, STEP, Decoded, decoding, table
from benchmarks.options import EXPORTED, Options, written_by
from benchmarks.peers.onnx_graph import session
from services.errors import ServiceError
from services.runtime.config import GraphConfig, TensorSpec, parse_config
from services.runtime.graph import Array, EngineError, Graph
from services.runtime.onnx_engine import OnnxEngine

LIMIT_SECONDS = 7 * 60.0  # of all graphs together; decoding takes a part of a minute more
SECONDS = 0.4  # of one measurement: a graph has four
BATCHES = (1, 8)  # beside the largest
CALLERS = 4  # each with a whole batch
PLACES, SAMPLES = 32, 16_000  # lengths of axes of variable length: tokens, frames or examples; a second of sound
# What training/trained.py allows, for cards that do not say it: shares of an output's largest value, and whole levels.
FLOAT32, GRADIENT, LEVELS = 1e-4, 1e-3, 1
LEAST_AGREEMENT = 0.98  # of outputs that are choices, such as tokens: a tie falls either way
FAILURES = (EngineError, ServiceError, RuntimeError)  # of runs, and of what `compared` finds
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Checked:
    """How far a graph's outputs are from the CPU's.

    Args:
        difference: the largest, as a share of the output's largest value.
        tolerance: what it may be at most.
        levels: the largest difference of an output in bytes, in levels.
        agreement: share of choices that are equal; 1 if there are none.
    """

    difference: float
    tolerance: float
    levels: int
    agreement: float

    @property
    def right(self) -> bool:
        return self.difference <= self.tolerance and self.levels <= LEVELS and self.agreement >= LEAST_AGREEMENT


@dataclass(frozen=True)
class Measured:
    """Rows a second at the batch that is best for bare ONNX Runtime."""

    batch: int
    bare: float
    lectern: float


Result = tuple[Checked, Measured]


def run(options: Options) -> None:
    """Check and measure every graph, and write the report.

    Raises:
        SystemExit: there is no such device.
        RuntimeError: a graph did not run, its answers are wrong, or no time was left for it; the report has the others.
    """
    onnxruntime.set_default_logger_severity(4)  # what matters comes back as exceptions
    started = time.monotonic()
    names = [path.parent.name for path in sorted(EXPORTED.glob(f"*/{CONFIG}"))]
    names = [name for name in names if any(part in name for part in options.only)]
    print(f"{len(names)} graphs, at most {LIMIT_SECONDS:.0f} s", file=sys.stderr)
    engine, machine = _engine(options.device), f"{written_by()}{hardware(options.device)}"
    results, problems = of_graphs(engine, names, options.seconds_or(SECONDS))
    decoded: list[Decoded] = []
    if STEP in names:
        try:
            decoded = decoding(engine, load, ROWS[:1] if options.brief else ROWS)
            problems += [f"{STEP} translates otherwise than on the CPU" for d in decoded if d.equal < LEAST_EQUAL]
        except FAILURES as error:
            problems.append(f"{STEP}, decoding: {error}")
    text = report(options.device, machine, results, problems, time.monotonic() - started)
    text += "\n".join([*table(decoded), ""]) if decoded else ""
    if options.device == "cpu":
        print(text)
    else:
        options.write(f"{options.device}.md", text)
    if problems:
        raise RuntimeError("; ".join(problems))


def of_graphs(engine: OnnxEngine, names: Sequence[str], seconds: float) -> tuple[dict[str, Result], list[str]]:
    """The results of these graphs, as far as time allows, and what is wrong with them."""
    results: dict[str, Result] = {}
    problems: list[str] = []
    started, longest = time.monotonic(), 0.0
    for name in names:
        begun = time.monotonic()
        if begun - started + longest > LIMIT_SECONDS:
            problems.append(f"{name}: no time was left for it")
            continue
        try:
            results[name] = checked, _ = of_graph(engine, name, seconds)
            problems += [] if checked.right else [f"{name} answers otherwise than on the CPU"]
        except FAILURES as error:  # the others are measured all the same
            problems.append(f"{name}: {error}")
        longest = max(longest, time.monotonic() - begun)
        print(f"{name}: {results.get(name)}", file=sys.stderr)  # in case that the report is never written
    return results, problems


def _engine(device: str) -> OnnxEngine:
    """The engine, once it has run a small graph."""
    try:
        engine = OnnxEngine(device)  # type: ignore[arg-type]  # one of --device's choices
        load(engine, "lunar_lander").close(10)
    except EngineError as error:
        sys.exit(f"nothing was measured: {error}")
    return engine


def load(engine: OnnxEngine, name: str) -> Graph:
    config = parse_config(name, (EXPORTED / name / CONFIG).read_bytes())
    return engine.load(config, 1, graph_file(name).read_bytes())


def graph_file(name: str) -> Path:
    return EXPORTED / name / str(served_versions(EXPORTED / name)[0]) / "model.onnx"


def of_graph(engine: OnnxEngine, name: str, seconds: float) -> Result:
    """Check one graph, and measure it for four times as many seconds."""
    graph, reference = load(engine, name), session(graph_file(name))
    most = graph.config.max_batch_size
    try:
        pairs = []
        for rows in (1, most) if most else (0,):
            inputs = inputs_of(graph.config, rows)
            expected = dict(
                zip((o.name for o in graph.config.outputs), _bare(reference, graph.config, inputs), strict=True)
            )
            pairs.append((expected, graph.run(inputs)))
        return compared(pairs, tolerance_of(name)), measured(engine, graph, seconds)
    finally:
        graph.close(10)


def _bare(bare: onnxruntime.InferenceSession, config: GraphConfig, inputs: Mapping[str, Array]) -> list[Array]:
    outputs: list[Array] = bare.run([spec.name for spec in config.outputs], dict(inputs))
    return outputs


def tolerance_of(name: str) -> float:
    """What a graph's card allows; it names what was nearest to its bound of all its graphs."""
    card = next((card for card in served_cards(EXPORTED) if name in own_graphs(card)), None)
    if card and card.parity.tolerance:
        return card.parity.tolerance
    return GRADIENT if "gradient" in name or "maml" in name else FLOAT32


def compared(pairs: list[tuple[dict[str, Array], dict[str, Array]]], tolerance: float) -> Checked:
    """Expected outputs and those of the device, of several runs.

    Raises:
        RuntimeError: an output has another shape, or a value that is no finite number.
    """
    difference, levels, equal, choices = 0.0, 0, 0, 0
    for expected, outputs in pairs:
        for name, wanted in expected.items():
            output = outputs[name]
            if output.shape != wanted.shape or not np.isfinite(output).all():
                raise RuntimeError(f"output {name} {list(output.shape)} is not {list(wanted.shape)} finite numbers")
            if wanted.dtype == np.uint8:
                levels = max(levels, int(np.abs(output.astype(int) - wanted.astype(int)).max(initial=0)))
            elif wanted.dtype.kind == "f":
                scale = float(np.abs(wanted).max(initial=0)) or 1.0
                difference = max(difference, float(np.abs(output - wanted).max(initial=0)) / scale)
            else:
                equal, choices = equal + int((output == wanted).sum()), choices + wanted.size
    return Checked(difference, tolerance, levels, equal / choices if choices else 1.0)


def measured(engine: OnnxEngine, graph: Graph, seconds: float) -> Measured:
    """Bare ONNX Runtime with its defaults at several batches, then Lectern at the best of them."""
    config = graph.config
    bare = onnxruntime.InferenceSession(graph_file(config.name), providers=[graph.provider])
    rates: dict[int, float] = {}
    sizes = sorted({*(b for b in BATCHES if b < config.max_batch_size), config.max_batch_size})
    for rows in sizes:
        inputs = inputs_of(config, rows)
        rates[rows] = max(rows, 1) * per_second(lambda given=inputs: _bare(bare, config, given), seconds)  # type: ignore[misc]
    best = max(rates, key=lambda rows: rates[rows])
    return Measured(best, rates[best], max(best, 1) * asyncio.run(called(graph, inputs_of(config, best), seconds)))


def per_second(call: Callable[[], object], seconds: float) -> float:
    """Calls a second, one after the other, once it has been called."""
    call()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        count += 1
    return count / (time.perf_counter() - started)


async def called(graph: Graph, inputs: Mapping[str, Array], seconds: float) -> float:
    """Answers a second to CALLERS callers, each with a whole batch."""
    await graph.infer(inputs)
    started, count = time.perf_counter(), 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() - started < seconds:
            await graph.infer(inputs)
            count += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return count / (time.perf_counter() - started)


def inputs_of(config: GraphConfig, rows: int) -> dict[str, Array]:
    """Inputs that the graph takes, always the same; 0 rows = without a batch axis."""
    rng = np.random.default_rng(0)
    lead = (rows,) if rows else ()
    past = any(spec.name.startswith("key_") for spec in config.inputs)
    return {spec.name: _values(spec, (*lead, *_places(spec, past)), past, rng) for spec in config.inputs}


def _places(spec: TensorSpec, past: bool) -> tuple[int, ...]:
    free = SAMPLES if spec.name == "samples" else 1 if past and spec.name == "tokens" else PLACES
    return tuple(free if size < 0 else size for size in spec.shape)


def _values(spec: TensorSpec, shape: tuple[int, ...], past: bool, rng: np.random.Generator) -> Array:
    match spec.name:
        case "labels" if len(shape) == 1:
            values = np.arange(*shape) % 2
        case "labels":
            values = np.eye(*shape)
        case "segments":
            values = np.broadcast_to(np.arange(shape[-1]) >= shape[-1] // 2, shape)
        case "lengths":
            values = np.full(shape, SAMPLES)
        case "length":
            values = np.full(shape, PLACES // 2 if past else PLACES)
        case "memory_length":
            values = np.full(shape, PLACES)
        case "steps":
            values = np.full(shape, 3)
        case "temperature" | "penalty" | "log_probability" | "frames":
            values = np.ones(shape)
        case "top_k":
            values = np.full(shape, 40)
        case "top_p":
            values = np.full(shape, 0.9)
        case "seen":
            values = np.zeros(shape)
        case _ if spec.dtype == np.float32:
            values = rng.uniform(0, 1, shape)
        case _ if spec.dtype == np.int16:
            values = rng.normal(0, 1000, shape)
        case _:
            values = rng.integers(0, 256 if spec.dtype == np.uint8 else 10, shape)
    return values.astype(spec.dtype)


def report(device: str, machine: str, results: Mapping[str, Result], problems: Sequence[str], seconds: float) -> str:
    lines = [
        f"# Graphs on {device.upper()}",
        "",
        f"{machine}, in {seconds:.0f} s. Each graph's outputs for one row and for a whole batch "
        "are compared with those of the CPU: the largest difference as a share of the output's largest value, what its "
        "card allows, the largest difference of outputs in bytes, in levels, and the share of equal choices. Rows a "
        "second, or runs of a graph that has no batches: bare ONNX Runtime with its defaults on "
        f"{PROVIDERS[device]} for one caller, at the best batch; Lectern's engine for {CALLERS} callers of such "
        "batches, and its share of the former.",
        "",
        *(f"- **{problem}**" for problem in problems),
        *([""] if problems else []),
        "| graph | difference | allowed | levels | equal | batch | bare, rows/s | Lectern, rows/s | share |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, (c, m) in results.items():
        cells = (
            f"`{name}`",
            f"{c.difference:.1e}",
            f"{c.tolerance:.0e}",
            f"{c.levels}",
            f"{c.agreement:.3f}",
            f"{m.batch or '-'}",
            _rounded(m.bare),
            _rounded(m.lectern),
            f"{m.lectern / m.bare:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"


def hardware(device: str) -> str:
    """The GPU, its memory and its driver, after the machine's own."""
    if device == "cpu":
        return ""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    name, memory, driver = (
        subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0].split(", ")
    )
    return f", {name} with {memory}, driver {driver}"
