"""The images that a model's classes and units answer to, for ExplainModel: climbed to, or found among a generator's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.card import NoisePreprocessing
from lectern.v1 import explain_pb2 as pb
from services.answering import find
from services.codecs.tensors import softmax
from services.errors import InvalidArgument
from services.explain import CAPABILITY
from services.explain.fields import field_of, whole
from services.explain.image_input import ImageKind, grey_image
from services.explain.methods.activation_maximisation import ascend, starts
from services.explain.methods.asking import Floats
from services.explain.methods.preferred_inputs import evolve
from services.explain.network import Network, explanation_of
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model, Repository

STEPS = 64
GENERATION_STEPS = 8  # one generation of a search takes about as long as so many steps of an ascent

# Images `[N, *x.shape]` -> how strongly each is answered to, `[N]`, and with which probability, `[N]`, if of classes.
Measure = Callable[[Floats], Awaitable[tuple[Floats, Floats | None]]]


@dataclass(frozen=True)
class Preferred:
    """An image uint8 `[height, width, channels]`, and how strongly it was answered to at the start and at the end."""

    image: NDArray[np.uint8]
    start: float
    end: float
    probability: float | None = None


async def of_classes(
    options: pb.ActivationMaximisation, seed: int, model: Model, call: Call, repository: Repository, limits: Limits
) -> dict[str, Preferred]:
    """The image that each class answers to, by label.

    Raises:
        InvalidArgument: the model has no classes or takes no images, or a label, the steps or the generator is bad.
        NotFound, Unavailable: the generator.
    """
    card = model.card
    steps = whole(options, "steps", STEPS, 1, limits.explanation_samples)
    if not card.labels:
        raise InvalidArgument.field("model", f"{card.name} has no classes: ask about its filters")
    labels = list(dict.fromkeys(options.labels)) or list(card.labels[: limits.explanations])
    for i, label in enumerate(labels):
        if label not in card.labels:
            raise InvalidArgument.field(
                f"activation_maximisation.labels[{i}]", f"is {label!r}; {card.name} has: {', '.join(card.labels)}"
            )
    _check_count(options, "labels", labels, limits)
    (network, kind), targets = grey_image(model, call), np.array([card.labels.index(label) for label in labels])
    if options.generator:
        field = field_of(options, "generator")
        generator, prior = find(
            repository, options.generator, 0, NoisePreprocessing, *CAPABILITY.borrows_from, field=field
        )
        search = _Search(network, kind, generator, prior.size, call)
        return {
            label: await search.best(target, max(1, steps // GENERATION_STEPS), seed)
            for label, target in zip(labels, targets.tolist(), strict=True)
        }

    async def gradients(xs: Floats) -> Floats:
        return np.concatenate([batch.gradients async for batch in network.derive(xs, targets)])

    async def measure(xs: Floats) -> tuple[Floats, Floats]:
        return await _answers(network, xs, targets)

    return dict(zip(labels, await _climbed(kind, len(labels), gradients, measure, steps, seed), strict=True))


async def of_units(
    options: pb.FilterVisualisation, seed: int, model: Model, call: Call, limits: Limits
) -> dict[str, Preferred]:
    """The image that each unit of a layer answers to, by layer and unit.

    Raises:
        InvalidArgument: the model takes no images, or the layer, a unit or the steps are bad.
    """
    steps = whole(options, "steps", STEPS, 1, limits.explanation_samples)
    layers = {layer.name: layer for layer in explanation_of(model.card).layers}
    if options.layer not in layers:
        known = ", ".join(layers) or "none"
        raise InvalidArgument.field(field_of(options, "layer"), f"is {options.layer!r}; {model.card.name} has: {known}")
    count = layers[options.layer].units
    units = list(dict.fromkeys(options.units)) or list(range(min(count, limits.explanations)))
    for i, unit in enumerate(units):
        if unit >= count:
            raise InvalidArgument.field(
                field_of(options, f"units[{i}]"), f"is {unit}; {options.layer} has 0 to {count - 1}"
            )
    _check_count(options, "units", units, limits)
    network, kind = grey_image(model, call)
    weights = network.unit_weights(options.layer, units)

    async def gradients(xs: Floats) -> Floats:
        return np.concatenate([batch.gradients async for batch in network.derive(xs, units=weights)])

    async def measure(xs: Floats) -> tuple[Floats, None]:
        parts = [batch.activations async for batch in network.derive(xs, units=weights)]
        return (np.concatenate(parts) * weights).sum(1), None

    preferred = await _climbed(kind, len(units), gradients, measure, steps, seed)
    return dict(zip((f"{options.layer} {unit}" for unit in units), preferred, strict=True))


async def _climbed(
    kind: ImageKind,
    count: int,
    gradients: Callable[[Floats], Awaitable[Floats]],
    measure: Measure,
    steps: int,
    seed: int,
) -> list[Preferred]:
    """Images made from the same noise by gradient ascent."""
    first = starts(kind.x.shape, count, seed)
    before, _ = await measure(first)
    last = await ascend(first, gradients, steps=steps, seed=seed)
    after, probabilities = await measure(last)
    chances = [None] * count if probabilities is None else probabilities.tolist()
    images = kind.encoded(last)
    columns = zip(images, before.tolist(), after.tolist(), chances, strict=True)
    return [Preferred(image, start, end, probability) for image, start, end, probability in columns]


@dataclass(frozen=True)
class _Search:
    """Looks among a generator's images, which it makes of noise `[N, size]`."""

    network: Network
    kind: ImageKind
    generator: Model
    size: int
    call: Call

    async def best(self, target: int, generations: int, seed: int) -> Preferred:
        """The image that the class `target` answers to most."""

        async def rate(images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
            xs = np.stack([ImageKind.of(image, self.kind.exponent).x for image in images])
            return await _answers(self.network, xs, np.full(len(xs), target))

        labels = len(self.generator.card.labels)
        best, start = await evolve(
            self._generate, rate, size=self.size, labels=labels, generations=generations, seed=seed
        )
        return Preferred(best.image, start, best.rating, best.probability)

    async def _generate(self, codes: Floats, labels: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        inputs: dict[str, NDArray[Any]] = {"noise": codes} if labels is None else {"noise": codes, "label": labels}
        outputs = await self.generator.graphs["forward"].infer(inputs, self.call.deadline, self.call.priority)
        return np.stack([_fitted(image, self.kind.x.shape) for image in outputs["images"]])


async def _answers(network: Network, xs: Floats, targets: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The logit and the probability of each input's own target, `[N]`."""
    outputs = np.concatenate([batch.outputs async for batch in network.derive(xs, targets)])
    places = np.arange(len(xs)), targets
    return outputs[places], softmax(outputs)[places]


def _check_count(
    options: pb.ActivationMaximisation | pb.FilterVisualisation, name: str, given: Sequence[object], limits: Limits
) -> None:
    if len(given) > limits.explanations:
        raise InvalidArgument.field(
            field_of(options, name), f"has {len(given)}; the most in one request are {limits.explanations}"
        )


def _fitted(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The image at the size `[height, width, channels]`."""
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    picture = picture.convert("RGB" if shape[2] == 3 else "L")
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BOX)).reshape(shape)
