"""What is explained: one input of one model, as the numbers x that the model's gradients are by.

Each kind of input has a class (`image_input.py`, `row_input.py`, ...): how x is decoded, what stands for nothing, which
values belong together, and how much noise is a little. Methods know nothing of kinds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from artifacts.card import Card
from lectern.v1 import explain_pb2 as pb
from services.codecs.tensors import softmax
from services.errors import InvalidArgument
from services.explain.fields import field_of
from services.explain.methods.asking import Derivatives, Floats, Remaining
from services.explain.network import Network

Baselined = pb.IntegratedGradients | pb.Occlusion | pb.Lime | pb.KernelShap
Request = pb.ExplainRequest | pb.CompareRequest
CHUNK = 64  # inputs that are built at once


class Kind(Protocol):
    """How inputs of one kind are taken apart."""

    @property
    def x(self) -> Floats:
        """The input, float32."""

    @property
    def pixels(self) -> tuple[int, ...]:
        """Shape of what methods weigh: an image's height and width, a row's features."""

    @property
    def noise_scale(self) -> Floats:
        """Standard deviation of noise of size 1, for each value of x."""

    def baseline(self, given: int, default: int) -> Floats:
        """What stands for nothing, like x; `default` is what images and audio have if none is given.

        Raises:
            ValueError: there is no such baseline of this kind; says why.
        """

    def groups(self, cells: int) -> NDArray[np.int64]:
        """Which group, from 0, each pixel or feature belongs to, like `pixels`."""

    def windows(self, size: int, stride: int) -> list[tuple[slice, ...]]:
        """Parts of `pixels` to take away one by one; kinds without windows of their own size ignore both."""

    def spread(self, values: Floats) -> Floats:
        """Values `[N, *pixels]` as `[N, *x.shape]` or what broadcasts to it."""


@dataclass(frozen=True)
class Subject:
    """One input of one model, and the output of it that is explained.

    Args:
        labels: of the outputs; empty if they have no names.
        outputs: what the model says of the input, `[K]`.
        target: index of the explained output.
    """

    network: Network
    kind: Kind
    labels: Sequence[str]
    outputs: Floats
    target: int

    @property
    def card(self) -> Card:
        return self.network.card

    @property
    def classifies(self) -> bool:
        """Whether its outputs are logits of classes."""
        return bool(self.card.labels)

    @property
    def probability(self) -> float | None:
        """Of the target, if it is a class."""
        return float(softmax(self.outputs[None])[0, self.target]) if self.classifies else None

    def baseline(self, method: Baselined | None, default: int) -> Floats:
        """What stands for nothing, as the method asks for; rows and texts have one only.

        Raises:
            InvalidArgument: there is no such baseline of this kind of input.
        """
        try:
            return self.kind.baseline(method.baseline if method else pb.BASELINE_UNSPECIFIED, default)
        except ValueError as error:
            at = field_of(method, "baseline") if method else "baseline"
            raise InvalidArgument.field(at, str(error)) from None

    async def derive(self, xs: Floats) -> AsyncIterator[Derivatives]:
        """The target and its derivative for inputs `[N, *x.shape]`, in parts of at most one batch."""
        async for batch in self.network.derive(xs, self.target):
            yield Derivatives(batch.gradients, batch.outputs[:, self.target], batch.maps)

    async def values(self, xs: Floats, *, probability: bool = False) -> Floats:
        """The target's logit or value for inputs `[N, *x.shape]`, or its probability if it is a class; `[N]`."""
        outputs = await self.network.outputs(xs)
        if probability and self.classifies:
            outputs = softmax(outputs)
        return np.asarray(outputs[:, self.target])

    def remaining(self, baseline: Floats, *, probability: bool = False) -> Remaining:
        """Asks for the target's value where only a part of the input is there, the rest baseline."""

        async def ask(kept: NDArray[Any]) -> Floats:
            values = []
            for start in range(0, len(kept), CHUNK):
                part = self.kind.spread(kept[start : start + CHUNK].astype(np.float32))
                xs = part * self.kind.x + (1 - part) * baseline
                values.append(await self.values(xs, probability=probability))
            return np.concatenate(values)

        return ask


def read_target(request: Request, labels: Sequence[str], outputs: Floats, card: Card) -> int:
    """Which of the outputs `[K]` is explained.

    Raises:
        InvalidArgument: there is none like that.
    """
    match request.WhichOneof("target"):
        case "target_index":
            if request.target_index >= len(outputs):
                raise InvalidArgument.field(
                    "target_index", f"is {request.target_index}; {card.name} has 0 to {len(outputs) - 1}"
                )
            return int(request.target_index)
        case "target_label":
            if request.target_label not in labels:
                raise InvalidArgument.field(
                    "target_label", f"is {request.target_label!r}; {card.name} has: {', '.join(labels)}"
                )
            return list(labels).index(request.target_label)
    return int(outputs.argmax()) if card.labels else 0


def check_kind(request: Request, wanted: str, card: Card) -> None:
    """Raises InvalidArgument if a model is sent what it does not take."""
    if (sent := request.input.WhichOneof("kind")) != wanted:
        raise InvalidArgument.field("input", f"has {sent or 'nothing'}; {card.name} takes its `{wanted}`")
