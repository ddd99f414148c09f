"""Activation maximisation: Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; with random
shifts and steps in the space of frequencies after Olah et al., "Feature Visualization", 2017."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from artifacts.noise import noise
from services.explain.methods.asking import Floats

STEP = 8.0  # grey levels that an ascent moves an image by, on average
NOISE = 24.0
DECAY = 0.99  # towards grey
SHIFT = 3  # pixels, at random in each step, so that no pattern settles on the grid


def starts(shape: tuple[int, ...], count: int, seed: int) -> Floats:
    """Images to climb from, all the same: grey with noise, `[count, height, width, channels]`, 0 to 255."""
    start = 127.5 + NOISE * noise(seed, int(np.prod(shape))).reshape(shape)
    return np.repeat(start[None], count, 0).astype(np.float32)


async def ascend(xs: Floats, gradients: Callable[[Floats], Awaitable[Floats]], *, steps: int, seed: int) -> Floats:
    """Images `[N, height, width, channels]`, 0 to 255, that excite what they climb for; all together, in steps of one
    mean size.

    Args:
        xs: where they start.
        gradients: of what each image climbs for, like xs.
    """
    random = np.random.default_rng(seed)
    for step in range(steps):
        down, right = random.integers(-SHIFT, SHIFT + 1, 2)
        shifted = await gradients(np.roll(xs, (down, right), (1, 2)))
        directions = _smoothed(np.roll(shifted, (-down, -right), (1, 2)))
        sizes = np.abs(directions).mean((1, 2, 3), keepdims=True)
        xs = xs + STEP * (1 - step / steps) * directions / np.maximum(sizes, 1e-12)
        xs = 127.5 + DECAY * (xs - 127.5)
        xs = xs.clip(0, 255).astype(np.float32)
    return xs


def _smoothed(gradients: Floats) -> Floats:
    """Each frequency divided by itself, as images have it; otherwise the finest patterns win, which mean little."""
    height, width = gradients.shape[1:3]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).clip(min=1 / max(height, width))
    spectrum = np.fft.rfft2(gradients, axes=(1, 2)) / frequency[None, :, :, None]
    return np.fft.irfft2(spectrum, (height, width), axes=(1, 2)).astype(np.float32)
