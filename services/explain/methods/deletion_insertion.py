"""Deletion and insertion, by which an explanation is judged: Petsiuk et al., "RISE", 2018, in 32 steps.

Region by region, as Samek et al., "Evaluating the visualization of what a deep neural network has learned", 2017:
single pixels of another colour fool a network wherever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Floats, Remaining

STEPS = 32


@dataclass(frozen=True)
class Scale:
    """Answers as shares of the difference that the input makes; as they are, which is for probabilities, by default."""

    nothing: float = 0.0
    difference: float = 1.0

    @classmethod
    def between(cls, full: np.float32, nothing: np.float32) -> Scale:
        """0 for what the model says of the baseline, 1 for what it says of the input."""
        return cls(float(nothing), float(full - nothing) or 1.0)

    def apply(self, answers: Floats) -> Floats:
        return (answers - np.float32(self.nothing)) / np.float32(self.difference)


async def deletion_and_insertion(
    attribution: Floats,
    regions: NDArray[np.int64],
    deleting: Remaining,
    inserting: Remaining,
    *,
    signed: bool,
    scale: Scale,
) -> tuple[float, float]:
    """Areas under the output while what matters most is taken away, and while it is put back; 0 to 1 for probabilities.

    Args:
        attribution: what each pixel, feature or word contributes, `[*pixels]`.
        regions: of each, from 0: `[*pixels]`.
        deleting, inserting: ask the model about what remains on two baselines.
        signed: whether values below 0 speak against the output.
    """
    values = np.bincount(regions.ravel(), attribution.ravel()) / np.bincount(regions.ravel())
    ranks = (-values * (float(np.sign(scale.difference)) if signed else 1)).argsort(kind="stable").argsort()
    shares = np.linspace(0, 1, STEPS + 1).reshape(-1, *[1] * regions.ndim)
    gone = ranks[regions] < (shares * len(ranks)).round()
    deletion = scale.apply(await deleting(~gone))
    insertion = scale.apply(await inserting(gone))
    return area(deletion), area(insertion)


def area(values: Floats) -> float:
    """Area under values at equal distances over 0 to 1."""
    return float(np.trapezoid(values, dx=1 / (len(values) - 1)))
