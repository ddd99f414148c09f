"""How far a graph's outputs are from torch's, and how far they may be: relative to an output's size, by its arithmetic.

What one CPU rounds up another rounds down, so a bound in absolute numbers holds on the machine it was set on. A bound
on the difference as a share of the output's largest value holds wherever the arithmetic is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.card import Parity
from training.trained import Graph

LARGE_BATCH_FACTOR = 3
# Name, whether ONNX Runtime optimises the graph, threads: kernels and orders of summation differ.
RUNS = (("optimised, 1 thread", True, 1), ("optimised, 2 threads", True, 2), ("as exported, 1 thread", False, 1))
DECISIONS = ("logits", "starts", "ends")  # outputs whose largest value is what a caller is told


class ExportError(RuntimeError):
    """A graph could not be exported as promised."""


class ParityError(ExportError):
    """A graph does not answer as torch does; the message says where."""


def check_parity(graph: Graph, path: Path) -> Parity:
    """As `measure_parity`.

    Raises:
        ParityError: an output differs by more than the graph's tolerance, too.
    """
    parity = measure_parity(graph, path)
    tolerance = graph.tolerance
    if parity.max_abs_diff > tolerance.levels and not (parity.max_relative_diff or 0) <= tolerance.relative:
        allowed = f"{tolerance.relative:.2g} of the output's largest value"
        raise ParityError(
            f"{path.name}: differs from torch by {parity.max_abs_diff:.2g}, {parity.max_relative_diff:.2g} of the "
            f"output's largest value; at most {allowed} is expected where {tolerance.reason}"
        )
    return parity


def measure_parity(graph: Graph, path: Path) -> Parity:
    """Compare ONNX Runtime with torch on one item, on the example, on a larger batch, and on shorter dynamic axes; with
    graph optimisation and without, on one thread and on two.

    Raises:
        ParityError: an output has another shape, or holds a value that is no finite number.
    """
    sessions = {name: _session(path, optimised, threads) for name, optimised, threads in RUNS}
    absolute, relative, equal, decisions, batches = 0.0, 0.0, 0, 0, []
    for inputs in variations(graph):
        with torch.no_grad():
            expected = graph.module(*inputs.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        arrays = {name: value.numpy() for name, value in inputs.items()}
        for run, session in sessions.items():
            outputs = session.run(list(graph.outputs), arrays)
            for name, wanted, output in zip(graph.outputs, expected, outputs, strict=True):
                difference = _difference(f"{path.name}, {run}: output {name}", wanted.numpy(), output)
                scale = float(np.abs(wanted.numpy()).max(initial=0)) or 1.0
                absolute, relative = max(absolute, difference), max(relative, difference / scale)
                if name in DECISIONS:
                    agree = _decisions(wanted.numpy(), arrays) == _decisions(output, arrays)
                    equal, decisions = equal + int(agree.sum()), decisions + agree.size
        batches.append(len(next(iter(inputs.values()))))
    return Parity(
        max_abs_diff=absolute,
        batches=tuple(batches),
        max_relative_diff=relative,
        tolerance=graph.tolerance.relative,
        reason=graph.tolerance.reason,
        agreement=equal / decisions if decisions else None,
        decisions=decisions,
        runs=tuple(sessions),
    )


def _decisions(scores: NDArray[np.generic], inputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.int64]:
    """Where the largest value is; of tokens, only those of the context and the first, which says "no answer"."""
    if (segments := inputs.get("segments")) is not None:
        asked = segments == 0
        asked[:, 0] = False
        scores = np.where(asked, -np.inf, scores)
    places: NDArray[np.int64] = scores.argmax(-1)
    return places


def worst(parities: Sequence[Parity]) -> Parity:
    """The one of several graphs that a card names: decisions of the first, differences of the one nearest to its
    tolerance, which is not the same for all."""
    nearest = max(parities, key=lambda p: (p.max_relative_diff or 0.0) / (p.tolerance or 1.0))
    return parities[0].model_copy(
        update={
            "max_abs_diff": max(p.max_abs_diff for p in parities),
            "max_relative_diff": nearest.max_relative_diff,
            "tolerance": nearest.tolerance,
            "reason": nearest.reason,
        }
    )


def variations(graph: Graph) -> Iterator[dict[str, Tensor]]:
    """Inputs of several batch sizes and lengths, made of the graph's example."""
    if not graph.max_batch_size:
        yield from (graph.inputs, *graph.further_inputs)
        return
    yield {name: value[:1] for name, value in graph.inputs.items()}
    yield graph.inputs
    yield {name: torch.cat([value.flip(0)] * LARGE_BATCH_FACTOR) for name, value in graph.inputs.items()}
    if graph.dynamic_axes:
        yield _shorter(graph.inputs, graph.dynamic_axes)


def _shorter(inputs: Mapping[str, Tensor], dynamic_axes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    shorter = dict(inputs)
    for name, axes in dynamic_axes.items():
        for axis in axes:
            shorter[name] = shorter[name].narrow(axis, 0, max(1, shorter[name].shape[axis] // 2))
    return shorter


def _session(path: Path, optimised: bool, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _difference(what: str, wanted: NDArray[np.generic], output: NDArray[np.generic]) -> float:
    """The largest between two arrays.

    Raises:
        ParityError: they differ in shape, or one holds NaN or an infinite value.
    """
    if wanted.shape != output.shape:
        raise ParityError(f"{what} has shape {output.shape}, torch gives {wanted.shape}")
    for who, array in (("torch", wanted), ("ONNX Runtime", output)):
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ParityError(f"{what}: {who} gives values that are no finite numbers")
    return float(np.abs(wanted.astype(np.float64) - output.astype(np.float64)).max(initial=0))
