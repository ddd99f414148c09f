"""SmoothGrad: Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017."""

from __future__ import annotations

import numpy as np

from artifacts.noise import noise
from services.explain.methods.asking import Derive, Floats


async def smooth_grad(x: Floats, derive: Derive, *, scale: Floats, size: float, samples: int, seed: int) -> Floats:
    """The mean size of the gradient over noisy copies, like x; in the output's unit for one unit of x.

    Args:
        scale: how far values of x range, of shape `[]` or x's.
        size: the noise's standard deviation, as a share of it.
        seed: of the noise of `artifacts.noise`, `samples` times the input's size in one draw.
    """
    drawn = noise(seed, samples * x.size).reshape(samples, *x.shape) * scale * np.float32(size)
    total = np.zeros(x.shape, np.float64)
    async for batch in derive(x + drawn):
        total += np.abs(batch.gradients).sum(0)
    return (total / samples).astype(np.float32)
