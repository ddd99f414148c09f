"""Runs the graph `gradient` of a model, as training exports it, whose inputs and outputs are known by name.

Inputs: x; `weights` `[N, K]` of the outputs; and, if the model has them, `log_probability` `[N, 1]`, 1 = differentiate
the log-probabilities of the outputs; `units` `[N, U]`, weights of units of its layers; and constant inputs.
Outputs: the model's outputs; `gradient`, of the shape of x; and, if it has layers, `activations` `[N, U]` and the maps
`map_I` `[N, height, width]`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from services.runtime.graph import Array, Graph, batches

GRADIENT, RANDOM_GRADIENT = "gradient", "random_gradient"  # roles of a model's graphs; the second has random weights
GRADIENTS = (GRADIENT, RANDOM_GRADIENT)
ACTIVATIONS, MAP = "activations", "map_"
_WEIGHTS, _LOG_PROBABILITY, _UNITS = "weights", "log_probability", "units"


@dataclass(frozen=True)
class GradientGraph:
    """One graph with the deadline and priority of one caller.

    Args:
        deadline: in `time.monotonic()` seconds; `inf` = none.
        priority: as for `Graph.infer`.
        constants: inputs that are the same for every x, by name.
    """

    graph: Graph
    deadline: float
    priority: int
    constants: Mapping[str, Array] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """The number of outputs that have a weight."""
        return next(spec.shape[0] for spec in self.graph.config.inputs if spec.name == _WEIGHTS)

    def one_hot(self, outputs: Array | int, count: int) -> Array:
        """Weights `[count, K]` that are 1 at one output: the same for all rows, or one per row given as `[count]`."""
        weights = np.zeros((count, self.outputs), np.float32)
        weights[np.arange(count), outputs] = 1
        return weights

    async def run(
        self, xs: Array, weights: Array | None = None, *, units: Array | None = None, log_probability: bool = False
    ) -> AsyncIterator[dict[str, Array]]:
        """Outputs by name for `xs` `[N, ...]`, in parts of at most one batch; raises as `Graph.infer`.

        Args:
            weights: float32 `[N, K]`, weights of the outputs in the sum that is differentiated; None = 0.
            units: float32 `[N, U]`, weights of the units in that sum; None = 0.
            log_probability: sum log-probabilities of the outputs instead of the outputs.
        """
        first, *others = self.graph.config.inputs
        given = {_WEIGHTS: weights, _UNITS: units, _LOG_PROBABILITY: None}
        arrays = {first.name: np.ascontiguousarray(xs, np.float32)}
        for spec in others:
            if spec.name in self.constants:
                arrays[spec.name] = np.repeat(self.constants[spec.name][None], len(xs), 0)
            elif (values := given[spec.name]) is not None:
                arrays[spec.name] = values
            else:
                arrays[spec.name] = np.zeros((len(xs), *spec.shape), np.float32)
        if log_probability:
            arrays[_LOG_PROBABILITY][:] = 1
        async for part in batches(self.graph, arrays, self.deadline, self.priority):
            yield part
