"""Occlusion: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", 2014."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Floats, Remaining

Window: TypeAlias = tuple[slice, ...]


async def occlusion(pixels: tuple[int, ...], windows: Sequence[Window], remaining: Remaining) -> Floats:
    """By how much the output falls without a window, on average over the windows that hold a pixel: `[*pixels]`, in the
    output's unit; 0 where no window is."""
    return _averaged(pixels, windows, await _changes(pixels, windows, remaining))


async def occlusion_closer(
    pixels: tuple[int, ...], slabs: Sequence[Sequence[Window]], remaining: Remaining, *, share: float
) -> Floats:
    """As `occlusion` of all windows of all slabs, but of each slab as a whole first; the windows of one that matters
    little have equal parts of what it changes.

    Args:
        share: a slab matters if it changes at least this share of what the one that matters most does.
    """
    hulls = [_hull(slab) for slab in slabs]
    changes = await _changes(pixels, hulls, remaining)
    matters = np.abs(changes) >= share * np.abs(changes).max()
    closer = [window for slab, own in zip(slabs, matters, strict=True) if own for window in slab]
    coarse = [(hull, change / len(slab)) for hull, change, slab in zip(hulls, changes, slabs, strict=True)]
    rest = [entry for entry, own in zip(coarse, matters, strict=True) if not own]
    windows = [*closer, *(hull for hull, _ in rest)]
    parts = np.array([part for _, part in rest], np.float32)
    return _averaged(pixels, windows, np.concatenate([await _changes(pixels, closer, remaining), parts]))


async def _changes(pixels: tuple[int, ...], windows: Sequence[Window], remaining: Remaining) -> Floats:
    """By how much the output falls without each window."""
    kept = np.ones((len(windows) + 1, *pixels), np.float32)  # the last is whole
    for mask, window in zip(kept, windows, strict=False):
        mask[window] = 0
    answers = await remaining(kept)
    return np.asarray(answers[-1] - answers[:-1])


def _averaged(pixels: tuple[int, ...], windows: Sequence[Window], changes: NDArray[np.floating]) -> Floats:
    total, count = np.zeros(pixels, np.float32), np.zeros(pixels, np.float32)
    for window, change in zip(windows, changes, strict=True):
        total[window] += change
        count[window] += 1
    return np.asarray(total / np.maximum(count, 1))


def _hull(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all of these."""
    axes = zip(*windows, strict=True)
    return tuple(slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in axes)
