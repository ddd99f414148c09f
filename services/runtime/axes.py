"""Axes of a graph's inputs that have one name, and so must have one length (ONNX's `dim_param`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from services.runtime.config import GraphConfig
from services.runtime.external_data import OnnxModel
from services.runtime.graph import Array, misfit


class SharedAxes:
    """What a graph's inputs must agree in beside the batch.

    Args:
        content: the graph.
    """

    def __init__(self, config: GraphConfig, content: bytes) -> None:
        self._config = config
        axes: defaultdict[bytes, list[tuple[str, int]]] = defaultdict(list)
        model: Any = OnnxModel.FromString(content)
        for value in (value for graph in model.graph for value in graph.input):
            dimensions = [d for t in value.type for of in t.tensor_type for s in of.shape for d in s.dim]
            for axis, dimension in enumerate(dimensions):
                if dimension.dim_param and (axis or not config.max_batch_size):
                    axes[dimension.dim_param].append((value.name.decode(), axis))
        self._axes = [places for places in axes.values() if len(places) > 1]

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Raises InvalidArgument: inputs are of different lengths where they must agree."""
        for places in self._axes:
            lengths = [inputs[name].shape[axis] for name, axis in places]
            if len(set(lengths)) > 1:
                shown = ", ".join(
                    f"axis {axis} of {name} has {n}" for (name, axis), n in zip(places, lengths, strict=True)
                )
                raise misfit(self._config, shown)
