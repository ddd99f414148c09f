"""Randomised smoothing: the class that wins among noisy copies, and how far no change can unseat it. Cohen et al.,
"Certified Adversarial Robustness via Randomized Smoothing", 2019."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from services.defend.methods.pixels import RANGE, Images, rounded

CHOOSING = 5  # one copy in so many chooses the class
CHUNK = 64
HALVINGS = 50


@dataclass(frozen=True)
class Certified:
    """The class that wins, its share of the votes, and the L2 radius, in shares of the range, within which it stays."""

    index: int
    share: float
    radius: float


async def certify(
    image: Images,
    classify: Callable[[Images], Awaitable[NDArray[np.int64]]],
    random: np.random.Generator,
    *,
    classes: int,
    noise: float,
    samples: int,
    confidence: float,
) -> Certified:
    """The certified answer to one image `[height, width, channels]`.

    Args:
        classify: the class of each image, `[N]`.
        classes: how many there are.
        noise: standard deviation of the copies' noise, as a share of the range.
        samples: copies.
        confidence: probability that the radius holds.
    """
    choosing = samples // CHOOSING
    votes = np.zeros(classes, np.int64)
    chosen, left = -1, samples
    for size in _chunks(choosing, samples - choosing):
        if chosen < 0 and left <= samples - choosing:
            chosen, votes = int(votes.argmax()), np.zeros_like(votes)
        drawn = random.standard_normal((size, *image.shape), np.float32) * np.float32(RANGE * noise)
        votes += np.bincount(await classify(rounded(image + drawn)), minlength=classes)
        left -= size
    share = lower_bound(int(votes[chosen]), samples - choosing, 1 - confidence)
    radius = noise * NormalDist().inv_cdf(share) if share > 0.5 else 0.0
    return Certified(chosen, float(votes[chosen] / votes.sum()), radius)


def lower_bound(hits: int, trials: int, risk: float) -> float:
    """The least share that is consistent with so many hits, at that risk of being wrong (Clopper & Pearson 1934)."""
    if not hits:
        return 0.0
    terms = [_log_choose(trials, k) for k in range(hits, trials + 1)]
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        logs = [t + k * math.log(share) + (trials - k) * math.log1p(-share) for k, t in enumerate(terms, start=hits)]
        low, high = (share, high) if math.fsum(map(math.exp, logs)) < risk else (low, share)
    return low


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _chunks(*sizes: int) -> list[int]:
    """Each size in parts of at most CHUNK."""
    return [min(CHUNK, size - start) for size in sizes for start in range(0, size, CHUNK)]
