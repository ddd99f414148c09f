"""What a model has learned: images that its classes and units answer to, by gradient ascent or among a generator's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lectern.card import Explanation
from lectern.noise import noise
from services.codecs.tensors import softmax
from services.explain.subjects import Floats, ImageKind, Subject
from services.rpc import Call
from services.runtime.repository import Model

STEP = 8.0  # grey levels that an ascent moves an image by, on average
NOISE = 24.0
DECAY = 0.99  # towards grey
SHIFT = 3  # pixels, at random in each step, so that no pattern settles on the grid
POPULATION, PARENTS, GENERATION_STEPS, LEAST_SPREAD = 32, 8, 8, 0.1


@dataclass(frozen=True)
class Found:
    """An image uint8 `[height, width, channels]`, and what is wanted at the start and at the end."""

    image: NDArray[np.uint8]
    start: float
    end: float
    probability: float | None = None


async def ascend(subjects: Sequence[Subject], units: Floats | None, steps: int, seed: int) -> list[Found]:
    """Images made from the same noise by gradient ascent on each subject's target, or each row of `units` `[N, U]`.

    Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; with random shifts and steps in the space
    of frequencies after Olah et al., "Feature Visualization", 2017. All images climb together, in steps of one mean
    size.
    """
    first = subjects[0]
    shape = first.kind.x.shape
    start = 127.5 + NOISE * noise(seed, first.kind.x.size).reshape(shape)
    random = np.random.default_rng(seed)
    count = len(subjects) if units is None else len(units)
    xs = np.repeat(start[None], count, 0).astype(np.float32)
    begun = await _measure(subjects, units, xs)
    for step in range(steps):
        down, right = random.integers(-SHIFT, SHIFT + 1, 2)
        moved = np.roll(xs, (down, right), (1, 2))
        gradients = await _gradients(subjects, units, moved)
        gradients = _smoothed(np.roll(gradients, (-down, -right), (1, 2)))
        sizes = np.abs(gradients).mean((1, 2, 3), keepdims=True)
        xs = xs + STEP * (1 - step / steps) * gradients / np.maximum(sizes, 1e-12)
        xs = 127.5 + DECAY * (xs - 127.5)
        xs = xs.clip(0, 255).astype(np.float32)
    ended = await _measure(subjects, units, xs)
    images = cast(ImageKind, first.kind).forward(xs)
    return [
        Found(image, float(a[0]), float(b[0]), float(b[1]) if units is None and first.classifies else None)
        for image, a, b in zip(images, begun, ended, strict=True)
    ]


async def search(subject: Subject, generator: Model, size: int, steps: int, seed: int, call: Call) -> Found:
    """An image of the generator's, by an evolution strategy on its noise `[size]`: the best of each generation are the
    parents of the next.

    The prior of Nguyen et al., "Synthesizing the preferred inputs for neurons", 2016, who climb by gradients.
    """
    random = np.random.default_rng(seed)
    codes = random.standard_normal((POPULATION, size)).astype(np.float32)
    starts, best = [], Found(np.zeros(0, np.uint8), 0.0, -np.inf)
    for _ in range(max(1, steps // GENERATION_STEPS)):
        inputs: dict[str, NDArray[Any]] = {"noise": codes}
        if generator.card.labels:
            inputs["label"] = random.integers(0, len(generator.card.labels), (len(codes), 1))
        made = (await generator.graphs["forward"].infer(inputs, call.deadline, call.priority))["images"]
        images = [_fitted(image, subject.kind.x.shape) for image in made]
        xs = np.stack([ImageKind.of(image, subject.explanation.exponent).x for image in images])
        logits, probabilities = await _answers([subject] * len(xs), xs)
        starts.append(float(logits.mean()))
        order = np.argsort(-logits)
        if logits[order[0]] > best.end:
            probability = float(probabilities[order[0]]) if subject.classifies else None
            best = Found(images[order[0]], starts[0], float(logits[order[0]]), probability)
        parents = codes[order[:PARENTS]]
        spread = parents.std(0, keepdims=True) + LEAST_SPREAD
        codes = parents.mean(0) + spread * random.standard_normal(codes.shape).astype(np.float32)
        codes[0] = parents[0]
    return best


def unit_weights(explanation: Explanation, layer: str, units: Sequence[int]) -> Floats:
    """Weights `[N, U]` of the graph's `units`, each of one unit of that layer."""
    start = 0
    for entry in explanation.layers:
        if entry.name == layer:
            break
        start += entry.units
    weights = np.zeros((len(units), sum(entry.units for entry in explanation.layers)), np.float32)
    weights[np.arange(len(units)), start + np.array(units)] = 1
    return weights


async def _gradients(subjects: Sequence[Subject], units: Floats | None, xs: Floats) -> Floats:
    if units is not None:
        parts = [part["gradient"] async for part in subjects[0].gradients(xs, units)]
    else:
        parts = [part["gradient"] async for part in subjects[0].gradients(xs, targets=_targets(subjects))]
    return np.concatenate(parts)


async def _measure(subjects: Sequence[Subject], units: Floats | None, xs: Floats) -> list[tuple[float, float]]:
    """What is wanted of each image, and the probability of its class."""
    if units is not None:
        parts = [part["activations"] async for part in subjects[0].gradients(xs, units)]
        return [(float(v), 0.0) for v in (np.concatenate(parts) * units).sum(1)]
    logits, probabilities = await _answers(subjects, xs)
    return list(zip(logits.tolist(), probabilities.tolist(), strict=True))


async def _answers(subjects: Sequence[Subject], xs: Floats) -> tuple[Floats, Floats]:
    first, places = subjects[0], (np.arange(len(xs)), _targets(subjects))
    parts = [part[first.explanation.output] async for part in first.gradients(xs)]
    outputs = np.concatenate(parts)
    return outputs[places], softmax(outputs)[places]


def _targets(subjects: Sequence[Subject]) -> NDArray[np.int64]:
    return np.array([subject.target for subject in subjects])


def _smoothed(gradients: Floats) -> Floats:
    """Each frequency divided by itself, as images have it; otherwise the finest patterns win, which mean little."""
    height, width = gradients.shape[1:3]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).clip(min=1 / max(height, width))
    spectrum = np.fft.rfft2(gradients, axes=(1, 2)) / frequency[None, :, :, None]
    return np.fft.irfft2(spectrum, (height, width), axes=(1, 2)).astype(np.float32)


def _fitted(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The image at the size `[height, width, channels]`."""
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    picture = picture.convert("RGB" if shape[2] == 3 else "L")
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BOX)).reshape(shape)
