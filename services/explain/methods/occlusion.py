"""Occlusion: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", 2014."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.explain.methods.asking import Floats, Remaining


async def occlusion(pixels: tuple[int, ...], windows: Sequence[tuple[slice, ...]], remaining: Remaining) -> Floats:
    """By how much the output falls without a window, on average over the windows that hold a pixel: `[*pixels]`, in the
    output's unit; 0 where no window is."""
    kept = np.ones((len(windows), *pixels), np.float32)
    for mask, window in zip(kept, windows, strict=True):
        mask[window] = 0
    answers = await remaining(kept)
    (whole,) = await remaining(np.ones((1, *pixels), np.float32))
    taken = 1 - kept
    return np.asarray(np.tensordot(whole - answers, taken, 1) / np.maximum(taken.sum(0), 1))
