"""Images of a generator that a class answers to: the prior of Nguyen et al., "Synthesizing the preferred inputs for
neurons in neural networks via deep generator networks", 2016, who climb by gradients; here by an evolution strategy on
the generator's noise: Rechenberg, "Evolutionsstrategie", 1973."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Floats

POPULATION, PARENTS, LEAST_SPREAD = 32, 8, 0.1


@dataclass(frozen=True)
class Best:
    """An image, how strongly the class answers to it, `rating`, and with which probability."""

    image: NDArray[Any]
    rating: float
    probability: float


async def evolve(
    generate: Callable[[Floats, NDArray[np.int64] | None], Awaitable[NDArray[Any]]],
    rate: Callable[[NDArray[Any]], Awaitable[tuple[Floats, Floats]]],
    *,
    size: int,
    labels: int,
    generations: int,
    seed: int,
) -> tuple[Best, float]:
    """The best image of all generations, of each of which the best are the parents of the next; and the mean rating of
    the first generation.

    Args:
        generate: makes images of noise `[N, size]`, and of labels `[N, 1]` if the generator has any.
        rate: how strongly the class answers to each image, `[N]`, and its probability, `[N]`.
        labels: how many the generator has.
    """
    random = np.random.default_rng(seed)
    codes = random.standard_normal((POPULATION, size)).astype(np.float32)
    bests, means = [], []
    for _ in range(generations):
        chosen = random.integers(0, labels, (len(codes), 1)) if labels else None
        images = await generate(codes, chosen)
        ratings, probabilities = await rate(images)
        order = np.argsort(-ratings)
        first = order[0]
        bests.append(Best(images[first], float(ratings[first]), float(probabilities[first])))
        means.append(float(ratings.mean()))
        parents = codes[order[:PARENTS]]
        spread = parents.std(0, keepdims=True) + LEAST_SPREAD
        codes = parents.mean(0) + spread * random.standard_normal(codes.shape).astype(np.float32)
        codes[0] = parents[0]
    return max(bests, key=lambda best: best.rating), means[0]
