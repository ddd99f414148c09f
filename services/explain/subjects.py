"""What is explained: one input of one model, as the numbers x that the model's gradients are by.

Each kind of input is a class: how x is decoded, what stands for nothing, which values belong together, and how much
noise is a little. Methods know nothing of kinds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lectern.card import Card, Explanation, ImagePreprocessing, TabularPreprocessing
from lectern.v1 import explain_pb2 as pb
from services.codecs.images import decode_named
from services.codecs.tensors import rows_to_matrix, softmax
from services.errors import InvalidArgument
from services.explain.parameters import field_of
from services.limits import Limits
from services.rpc import Call
from services.runtime.graph import Graph, batches
from services.runtime.repository import Model

Floats = NDArray[np.float32]
GRADIENT, RANDOM = "gradient", "random_gradient"
Answer = Callable[[Floats], Awaitable[Floats]]
Baselined = pb.IntegratedGradients | pb.Occlusion | pb.Lime | pb.KernelShap
BLUR = 8  # of the longer side of an image, one in so many is the blur's standard deviation


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
        """Parts of `pixels` to take away one by one; 0 = the default."""

    def spread(self, values: Floats) -> Floats:
        """Values `[N, *pixels]` as `[N, *x.shape]` or what broadcasts to it."""


@dataclass(frozen=True)
class ImageKind:
    """An image: x is `[height, width, channels]`, 0 to 255."""

    x: Floats
    exponent: float

    @classmethod
    def of(cls, image: NDArray[np.uint8], exponent: float) -> ImageKind:
        return cls((255 * (image / 255) ** exponent).astype(np.float32), exponent)

    @property
    def pixels(self) -> tuple[int, ...]:
        return self.x.shape[:2]

    @property
    def noise_scale(self) -> Floats:
        return np.float32(255) * np.ones((), np.float32)

    def baseline(self, given: int, default: int) -> Floats:
        match given or default:
            case pb.BASELINE_BLACK:
                return np.zeros_like(self.x)
            case pb.BASELINE_WHITE:
                return np.full_like(self.x, 255)
            case pb.BASELINE_MEAN:
                return np.broadcast_to(self.x.mean((0, 1)), self.x.shape).astype(np.float32)
            case pb.BASELINE_BLUR:
                blur = ImageFilter.GaussianBlur(max(self.pixels) / BLUR)
                image = self.forward(self.x[None])[0]
                picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).filter(blur)
                return ImageKind.of(np.asarray(picture).reshape(image.shape), self.exponent).x
        raise ValueError(f"is {given}; send one of Baseline's values")

    def groups(self, cells: int) -> NDArray[np.int64]:
        side = max(self.pixels)
        rows, columns = (np.arange(n) * cells // side for n in self.pixels)
        return np.asarray(rows[:, None] * (columns[-1] + 1) + columns, np.int64)

    def windows(self, size: int, stride: int) -> list[tuple[slice, ...]]:
        # As captum's: the last window of a row or column may reach beyond the edge.
        starts = [range(0, -(-max(n - size, 0) // stride) * stride + 1, stride) for n in self.pixels]
        return [(slice(i, i + size), slice(j, j + size)) for i in starts[0] for j in starts[1]]

    def spread(self, values: Floats) -> Floats:
        return values[..., None]

    def forward(self, xs: Floats) -> NDArray[np.uint8]:
        return np.asarray((255 * (xs.clip(0, 255) / 255) ** (1 / self.exponent)).round(), np.uint8)


@dataclass(frozen=True)
class RowKind:
    """A row of a table: x is `[features]`."""

    x: Floats
    reference: Floats
    scale: Floats

    @property
    def pixels(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def noise_scale(self) -> Floats:
        return 4 * self.scale

    def baseline(self, given: int, default: int) -> Floats:
        if given:
            raise ValueError("is for images and audio; rows are compared with the card's reference")
        return self.reference

    def groups(self, cells: int) -> NDArray[np.int64]:
        return np.arange(len(self.x))

    def windows(self, size: int, stride: int) -> list[tuple[slice, ...]]:
        return [(slice(i, i + 1),) for i in range(len(self.x))]

    def spread(self, values: Floats) -> Floats:
        return values

    def forward(self, xs: Floats) -> Floats:
        return xs.astype(np.float32)


@dataclass(frozen=True)
class Subject:
    """One input of one model, and the output of it that is explained.

    Args:
        answer: what the model says of inputs `[N, *x.shape]`, as `[N, K]`; None = what its gradient graph says.
        labels: of the outputs; empty if they have no names.
        target: index of the explained output.
        outputs: what the model says of the input, `[K]`.
        random: explain the network with random weights in place of the model.
        constants: further inputs of the gradient graph, the same for each x.
    """

    model: Model
    kind: Kind
    call: Call
    answer: Answer | None
    explanation: Explanation
    labels: Sequence[str]
    outputs: Floats
    target: int
    random: bool = False
    constants: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def classifies(self) -> bool:
        """Whether its outputs are logits of classes."""
        return bool(self.model.card.labels)

    @property
    def probability(self) -> float | None:
        """Of the target, if it is a class."""
        return float(softmax(self.outputs[None])[0, self.target]) if self.classifies else None

    @property
    def gradient_graph(self) -> Graph:
        """Of the model, or of random weights.

        Raises:
            InvalidArgument: the model has none.
        """
        graph = self.model.graphs.get(RANDOM if self.random else GRADIENT)
        if graph is None:
            raise InvalidArgument.field(
                "method",
                f"follows gradients, of which {self.model.card.name} has no graph; occlusion, lime and kernel_shap "
                "need none",
            )
        return graph

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

    async def gradients(
        self, xs: Floats, units: Floats | None = None, targets: NDArray[np.int64] | None = None
    ) -> AsyncIterator[dict[str, NDArray[Any]]]:
        """What the graph `gradient` gives for inputs `[N, *x.shape]`, in parts of at most one batch.

        The derivative is that of the target, of each input's own of `targets` `[N]`, or of `units` `[N, U]`.
        """
        weights = np.zeros((len(xs), len(self.outputs)), np.float32)
        if units is None:
            weights[np.arange(len(xs)), self.target if targets is None else targets] = 1
        names = [tensor.name for tensor in self.gradient_graph.config.inputs]
        arrays = {names[0]: np.ascontiguousarray(xs, np.float32), "weights": weights}
        if "log_probability" in names:
            arrays["log_probability"] = np.zeros((len(xs), 1), np.float32)
        if "units" in names:
            count = sum(layer.units for layer in self.explanation.layers)
            arrays["units"] = np.zeros((len(xs), count), np.float32) if units is None else units
        arrays |= {name: np.repeat(value[None], len(xs), 0) for name, value in self.constants.items()}
        async for part in batches(self.gradient_graph, arrays, self.call.deadline, self.call.priority):
            yield part

    async def answers(self, xs: Floats) -> Floats:
        """What the model, or random weights, say of inputs `[N, *x.shape]`: `[N, K]`."""
        if self.answer is not None and not self.random:
            return await self.answer(xs)
        return np.concatenate([part[self.explanation.output] async for part in self.gradients(xs)])

    async def values(self, xs: Floats, *, probability: bool = False) -> Floats:
        """The target's logit or value for inputs `[N, *x.shape]`, or its probability if it is a class; `[N]`."""
        outputs = await self.answers(xs)
        if probability and self.classifies:
            outputs = softmax(outputs)
        return np.asarray(outputs[:, self.target])


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


async def read_subject(
    request: pb.ExplainRequest | pb.CompareRequest, model: Model, call: Call, limits: Limits
) -> Subject:
    """The input and target of a request, with the model's answer.

    Raises:
        InvalidArgument: the model cannot be explained, or takes another kind of input; the input or the target is bad.
    """
    card, explanation = model.card, explanation_of(model.card)
    kind = await _read_kind(request.input, card, explanation, limits)
    answer = by_graph(model, kind, explanation.output, call)
    outputs = (await answer(kind.x[None]))[0]
    labels = card.labels or (
        card.preprocessing.targets if isinstance(card.preprocessing, TabularPreprocessing) else (explanation.output,)
    )
    return Subject(model, kind, call, answer, explanation, labels, outputs, read_target(request, labels, outputs, card))


def by_graph(model: Model, kind: ImageKind | RowKind, output: str, call: Call) -> Answer:
    """Answers by the graph `forward`."""
    graph = model.graphs["forward"]

    async def answer(xs: Floats) -> Floats:
        inputs = {graph.config.inputs[0].name: kind.forward(xs)}
        return np.concatenate([part[output] async for part in batches(graph, inputs, call.deadline, call.priority)])

    return answer


def read_target(
    request: pb.ExplainRequest | pb.CompareRequest, labels: Sequence[str], outputs: Floats, card: Card
) -> int:
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


async def _read_kind(
    given: pb.ExplainedInput, card: Card, explanation: Explanation, limits: Limits
) -> ImageKind | RowKind:
    sent, preprocessing = given.WhichOneof("kind"), card.preprocessing
    if isinstance(preprocessing, ImagePreprocessing):
        check_kind(sent, "image", card)
        images = await decode_named({"input.image": given.image}, preprocessing, limits)
        return ImageKind.of(images[0], explanation.exponent)
    if isinstance(preprocessing, TabularPreprocessing):
        check_kind(sent, "row", card)
        x = rows_to_matrix([given.row], preprocessing.features, limits, "input.row")[0]
        return RowKind(x, *(np.array(v, np.float32) for v in (explanation.reference, explanation.scale)))
    raise InvalidArgument.field("model", f"{card.name} takes inputs of a kind that is not explained")


def check_kind(sent: str | None, wanted: str, card: Card) -> None:
    """Raises InvalidArgument if a model is sent what it does not take."""
    if sent != wanted:
        raise InvalidArgument.field("input", f"has {sent or 'nothing'}; {card.name} takes its `{wanted}`")
