"""RISE: Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018."""

from __future__ import annotations

import numpy as np
from PIL import Image

from services.explain.methods.asking import Floats, Remaining


async def rise(
    pixels: tuple[int, int], remaining: Remaining, *, samples: int, cells: int, keep: float, seed: int
) -> Floats:
    """The mean output under random masks, weighted by how much they keep of a pixel: `[height, width]`, in the output's
    unit; from 0 for what classifies."""
    masks = smooth_masks(pixels, samples, cells, keep, seed)
    answers = await remaining(masks)
    # By each pixel's own share of masks, which varies where they are few.
    return np.asarray(np.tensordot(answers, masks, 1) / np.maximum(masks.sum(0), 1e-6))


def smooth_masks(pixels: tuple[int, int], count: int, cells: int, keep: float, seed: int) -> Floats:
    """Random grids, enlarged smoothly and moved by less than a cell: `[count, height, width]`, 0 to 1.

    Args:
        cells: along the longer side.
        keep: probability that a cell is there.
    """
    random = np.random.default_rng(seed)
    size = -(-max(pixels) // cells)
    height, width = (-(-n // size) for n in pixels)
    grids = (random.random((count, height + 1, width + 1)) < keep).astype(np.float32)
    moves = random.integers(0, size, (count, 2))
    masks = np.empty((count, *pixels), np.float32)
    for mask, grid, (down, right) in zip(masks, grids, moves, strict=True):
        large = Image.fromarray(grid).resize(((width + 1) * size, (height + 1) * size), Image.Resampling.BILINEAR)
        mask[:] = np.asarray(large)[down : down + pixels[0], right : right + pixels[1]]
    return masks.clip(0, 1)
