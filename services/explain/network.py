"""A model as methods ask it, for outputs and derivatives. Only this file and those that read inputs know graphs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.card import Card, Explanation
from services.errors import InvalidArgument
from services.explain.methods.asking import Floats
from services.rpc import Call
from services.runtime.gradient_graph import ACTIVATIONS, GRADIENT, MAP, RANDOM_GRADIENT, GradientGraph
from services.runtime.graph import batches
from services.runtime.repository import Model

Answer = Callable[[Floats], Awaitable[Floats]]


@dataclass(frozen=True)
class Batch:
    """What the gradient graph gives for N inputs.

    Args:
        outputs: of the model, `[N, K]`.
        gradients: of the weighted outputs and units, like the inputs.
        activations: mean activation of each unit of the layers, `[N, U]`; empty without layers.
        maps: of each layer that has one, its channels weighted by their mean gradient, `[N, height, width]`.
    """

    outputs: Floats
    gradients: Floats
    activations: Floats
    maps: Mapping[str, Floats]


@dataclass(frozen=True)
class Network:
    """A model, or the same network with random weights, as one call asks it.

    Args:
        answer: what the model says of inputs `[N, *x.shape]`, as `[N, K]`; None = what its gradient graph says.
        explanation: what its gradient graph is of.
        constants: further inputs of the gradient graph, the same for each x.
        random: ask the network with random weights in place of the model.
        reach: the part of x, by its first axis, on which outputs depend; None = all.
    """

    model: Model
    call: Call
    answer: Answer | None
    explanation: Explanation
    constants: Mapping[str, Floats] = field(default_factory=dict)
    random: bool = False
    reach: slice | None = None

    @property
    def card(self) -> Card:
        return self.model.card

    @property
    def has_gradients(self) -> bool:
        return GRADIENT in self.model.graphs

    @property
    def has_random_weights(self) -> bool:
        return RANDOM_GRADIENT in self.model.graphs

    @property
    def map_layers(self) -> list[str]:
        """Names of the layers that are maps, from the first to the last."""
        return [layer.name for layer in self.explanation.layers if layer.map]

    async def outputs(self, xs: Floats) -> Floats:
        """What it says of inputs `[N, *x.shape]`: `[N, K]`."""
        if self.answer is not None and not self.random:
            return await self.answer(xs)
        return np.concatenate([batch.outputs async for batch in self.derive(xs)])

    async def derive(
        self, xs: Floats, outputs: NDArray[np.int64] | int | None = None, units: Floats | None = None
    ) -> AsyncIterator[Batch]:
        """Outputs and derivatives for inputs `[N, *x.shape]`, in parts of at most one batch.

        Args:
            outputs: which output is derived: one for all inputs, or of each its own, `[N]`; None = none.
            units: weights of the units that are derived, `[N, U]`; None = none.

        Raises:
            InvalidArgument: the model has no gradient graph.
        """
        graph = self.model.graphs.get(RANDOM_GRADIENT if self.random else GRADIENT)
        if graph is None:
            raise InvalidArgument.field(
                "method",
                f"follows gradients, of which {self.card.name} has no graph; occlusion, lime and kernel_shap need none",
            )
        gradient_graph = GradientGraph(graph, self.call.deadline, self.call.priority, self.constants)
        weights = None if outputs is None else gradient_graph.one_hot(outputs, len(xs))
        maps = [(f"{MAP}{i}", layer.name) for i, layer in enumerate(self.explanation.layers) if layer.map]
        reached = xs if self.reach is None else xs[:, self.reach]
        async for part in gradient_graph.run(reached, weights, units=units):
            gradients = part[GRADIENT]
            if self.reach is not None:
                gradients = np.zeros((len(gradients), *xs.shape[1:]), np.float32)
                gradients[:, self.reach] = part[GRADIENT]
            yield Batch(
                outputs=part[self.explanation.output],
                gradients=gradients,
                activations=part.get(ACTIVATIONS, np.zeros((len(part[GRADIENT]), 0), np.float32)),
                maps={layer: part[name] for name, layer in maps},
            )

    def unit_weights(self, layer: str, units: Sequence[int]) -> Floats:
        """Weights `[N, U]` of the gradient graph's units, each row of one unit of that layer."""
        start = 0
        for entry in self.explanation.layers:
            if entry.name == layer:
                break
            start += entry.units
        weights = np.zeros((len(units), sum(entry.units for entry in self.explanation.layers)), np.float32)
        weights[np.arange(len(units)), start + np.array(units)] = 1
        return weights


def by_forward_graph(
    model: Model, encode: Callable[[Floats], NDArray[Any]], explanation: Explanation, call: Call
) -> Answer:
    """Answers by the graph `forward`, which takes what `encode` makes of inputs."""
    graph = model.graphs["forward"]

    async def answer(xs: Floats) -> Floats:
        inputs = {graph.config.inputs[0].name: encode(xs)}
        parts = batches(graph, inputs, call.deadline, call.priority)
        return np.concatenate([part[explanation.output] async for part in parts])

    return answer


def explanation_of(card: Card) -> Explanation:
    """The card's explanation.

    Raises:
        InvalidArgument: it has none.
    """
    if card.explanation is None:
        raise InvalidArgument.field(
            "model", f"{card.name} version {card.version} has no gradient graph: `lectern make-explainable` adds one"
        )
    return card.explanation
