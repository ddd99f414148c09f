"""Noise from seeds, by the recipe that generate.proto promises: to change it is to change every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEEDS = 2**64


def noise(seed: int, size: int) -> NDArray[np.float32]:
    """Standard normal float32 `[size]`; `seed` in 0..2^64 - 1."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(size, np.float32)


def path(start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """`[steps, size]` from `start` to `end` along the arc between them (Shoemake 1985), both ends exact.

    Straight lines would pass near the origin, where no noise is.
    """
    t = np.linspace(0, 1, steps)[:, None]
    cosine = start @ end / (np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1).astype(np.float64))
    if np.sin(angle) < 1e-6:  # one seed twice
        return np.repeat(start[None], steps, axis=0)
    points = (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)
    points[0], points[-1] = start, end
    return points.astype(np.float32)
