"""Axes of variable length in a graph's inputs: which must have the same length, and how long they may be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from artifacts.card import (
    AudioPreprocessing,
    GenerationPreprocessing,
    Preprocessing,
    RewritingPreprocessing,
    TextPreprocessing,
    TranslationPreprocessing,
)
from services.runtime.config import GraphConfig
from services.runtime.external_data import OnnxModel
from services.runtime.graph import Array, EngineError, misfit

NamedAxes = defaultdict[bytes, list[tuple[str, int]]]

SAMPLES = "samples"  # the input of the graphs of audio models that is not in frames


def with_longest(config: GraphConfig, preprocessing: Preprocessing) -> GraphConfig:
    """The config of a graph, with the longest allowed length of its inputs' axes taken from its model's card."""
    inputs = (
        replace(spec, longest=_longest(spec.name, preprocessing)) if -1 in spec.shape else spec
        for spec in config.inputs
    )
    return replace(config, inputs=tuple(inputs))


def _longest(name: str, preprocessing: Preprocessing) -> int:
    match preprocessing:
        case TextPreprocessing() | TranslationPreprocessing() | RewritingPreprocessing() | GenerationPreprocessing():
            return preprocessing.max_tokens
        case AudioPreprocessing():
            return preprocessing.window // (1 if name == SAMPLES else preprocessing.hop or preprocessing.step)
    return 0


class SharedAxes:
    """Axes that must have the same length in all of a graph's inputs: those of the same name (ONNX's `dim_param`).

    Args:
        content: the graph.

    Raises:
        EngineError: the padding in the config does not fit the graph.
    """

    def __init__(self, config: GraphConfig, content: bytes) -> None:
        self._config = config
        model: Any = OnnxModel.FromString(content)
        axes = _named_axes((value for graph in model.graph for value in graph.input), config)
        self._axes = [places for places in axes.values() if len(places) > 1]
        if config.padding:
            outputs = _named_axes((value for graph in model.graph for value in graph.output), config)
            self._check_padding(axes, outputs)

    @property
    def positions(self) -> list[list[tuple[int, int]]]:
        """Each group of axes, as (position of the input, axis)."""
        names = [spec.name for spec in self._config.inputs]
        return [[(names.index(name), axis) for name, axis in places] for places in self._axes]

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Check the lengths of axes that must agree.

        Raises:
            InvalidArgument: they differ.
        """
        for places in self._axes:
            lengths = [inputs[name].shape[axis] for name, axis in places]
            if len(set(lengths)) > 1:
                shown = ", ".join(
                    f"axis {axis} of {name} has {n}" for (name, axis), n in zip(places, lengths, strict=True)
                )
                raise misfit(self._config, shown)

    def _check_padding(self, inputs: NamedAxes, outputs: NamedAxes) -> None:
        """Check that the padded axis and every variable axis of the outputs have the same name.

        Raises:
            EngineError: they have not.
        """
        lengths = {(spec.name, i) for spec in self._config.inputs for i, size in enumerate(spec.shape, 1) if size < 0}
        name = next((name for name, places in inputs.items() if set(places) == lengths), None)
        cut = {(spec.name, i) for spec in self._config.outputs for i, size in enumerate(spec.shape, 1) if size < 0}
        if name is None or not cut <= set(outputs[name]):
            problem = "the graph does not say that its axes of variable length have the same length"
            raise EngineError(f"config.pbtxt of {self._config.name} has a padded_axis, but {problem}")


def _named_axes(values: Iterable[Any], config: GraphConfig) -> NamedAxes:
    """Axes, each as (name of the tensor, number), by their name in the graph; without the batch axis."""
    axes: NamedAxes = defaultdict(list)
    for value in values:
        dimensions = [d for t in value.type for of in t.tensor_type for s in of.shape for d in s.dim]
        for axis, dimension in enumerate(dimensions):
            if dimension.dim_param and (axis or not config.max_batch_size):
                axes[dimension.dim_param].append((value.name.decode(), axis))
    return axes
