"""What a recipe hands to the export: `train(run)` of each model's file returns a `Trained`."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from artifacts.card import (
    Baseline,
    Calibration,
    ClassScores,
    DataSource,
    Explanation,
    Limits,
    Metric,
    Preprocessing,
    Robustness,
    Table,
)


@dataclass(frozen=True)
class Tolerance:
    """How far a graph's outputs may be from torch's.

    Args:
        relative: as a share of an output's largest value.
        reason: where differences come from, after "where".
        levels: or in whole levels, of an output in integers.
    """

    relative: float
    reason: str
    levels: float = 0.0


FLOAT32 = Tolerance(1e-4, "float32 sums are taken in another order")
GRADIENT = Tolerance(
    1e-3, "float32 sums are taken in another order, and a maximum at a tie sends its derivative elsewhere"
)
IMAGE = Tolerance(0.0, "a pixel between two of 256 levels is rounded either way", levels=1)
INT8 = Tolerance(0.25, "a value between two of 256 levels is rounded either way, and layers that follow carry it on")
QUANTISED = Tolerance(0.3, "it computes in 8 bits what torch computes in float32")


@dataclass(frozen=True)
class Graph:
    """One ONNX graph of a model.

    Args:
        module: in evaluation mode, on the CPU; everything random is an input.
        inputs: example inputs by name, each with the batch as its first axis (2 or more items).
        outputs: names of the outputs, batch first.
        dynamic_axes: by input, the axes beside the batch whose length may vary.
        max_batch_size: most items the server runs at once; 0 = the graph has no batch, so the inputs differ in their
            first axes, and `dynamic_axes` names every axis that varies.
        padding: parameters of config.pbtxt by which rows of different lengths run together (docs/runtime.md), for a
            graph that gives the same answer whatever a row is padded by.
        further_inputs: examples of other sizes to compare with torch on, for a graph without a batch.
        tolerance: how far any output may be from torch's.
        onnx: the content of a finished ONNX file, e.g. a quantised one, to write instead of exporting `module`.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic_axes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    max_batch_size: int = 64
    padding: dict[str, int] = field(default_factory=dict)
    further_inputs: tuple[dict[str, Tensor], ...] = ()
    tolerance: Tolerance = FLOAT32
    onnx: bytes | None = None


@dataclass(frozen=True)
class Figure:
    """A picture for the card: `file` is its name there, e.g. `pruning.png`, and `png` its content."""

    title: str
    file: str
    png: bytes


@dataclass(frozen=True)
class Trained:
    """A trained model with what its card says.

    Args:
        graphs: by role; `forward` is exported under the model's own name, any other role as NAME_ROLE.
        borrowed: by role, the models on whose served forward graph this one stands; they are not stored again.
        assets: content of further files that services read, e.g. `tokenizer.json`, by name.
        fields otherwise as in `artifacts.card.Card`.
    """

    title: str
    lecture: str
    capability: str
    task: str
    description: str
    graphs: dict[str, Graph]
    preprocessing: Preprocessing
    metrics: tuple[Metric, ...]
    data: tuple[DataSource, ...]
    device: str
    parameters: int
    labels: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    limits: Limits | None = None
    baselines: tuple[Baseline, ...] = ()
    per_class: tuple[ClassScores, ...] = ()
    calibration: Calibration | None = None
    robustness: tuple[Robustness, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    explanation: Explanation | None = None
    decision: dict[str, float] = field(default_factory=dict)
    borrowed: dict[str, str] = field(default_factory=dict)
    assets: dict[str, bytes] = field(default_factory=dict)
