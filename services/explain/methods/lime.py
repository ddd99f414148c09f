"""LIME: Ribeiro et al., "Why Should I Trust You?: Explaining the Predictions of Any Classifier", 2016."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Remaining

WIDTH = 0.25  # of the kernel, as the authors have it for images
PENALTY = 1.0


async def lime(groups: NDArray[np.int64], remaining: Remaining, *, samples: int, seed: int) -> NDArray[np.float64]:
    """Ridge regression on which groups are there, with copies weighted by their likeness: the weight of each pixel's
    group, `[*pixels]`, in the output's unit.

    Args:
        groups: of each pixel, feature or word, from 0: `[*pixels]`.
    """
    present = np.random.default_rng(seed).integers(0, 2, (samples, groups.max() + 1)).astype(np.float64)
    present[0] = 1
    answers = await remaining(present[:, groups])
    distance = 1 - np.sqrt(present.mean(1))  # cosine distance from the input, of which everything is present
    weights = np.sqrt(np.exp(-((distance / WIDTH) ** 2)))
    centre, level = np.average(present, 0, weights), np.average(answers, weights=weights)
    design, response = present - centre, answers - level
    gram = (design.T * weights) @ design + PENALTY * np.eye(design.shape[1])
    coefficients = np.linalg.solve(gram, (design.T * weights) @ response)
    return np.asarray(coefficients[groups])
