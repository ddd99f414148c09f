"""Random resizing and padding: Xie et al., "Mitigating Adversarial Effects Through Randomization", 2018."""

from __future__ import annotations

import numpy as np

from services.defend.methods.pixels import Floats, Randoms
from services.defend.methods.resampling import Resampling


def resize_and_pad(height: int, width: int, least: float, randoms: Randoms) -> Resampling:
    """Each image shrunk bilinearly to a random share of its sides, `least` to 1, somewhere on black."""
    pairs = [_shrunk_sides(height, width, least, random) for random in randoms]
    return Resampling(np.stack([rows for rows, _ in pairs]), np.stack([columns for _, columns in pairs]))


def _shrunk_sides(height: int, width: int, least: float, random: np.random.Generator) -> tuple[Floats, Floats]:
    share, down, right = random.uniform(least, 1), random.random(), random.random()
    return _bilinear(height, share, down), _bilinear(width, share, right)


def _bilinear(side: int, share: float, place: float) -> Floats:
    """Maps a side of pixels to fewer of them, at `place` (0 to 1) of the room that this leaves; pixels' centres count
    (`align_corners=False`)."""
    size = max(1, round(side * share))
    weights = np.zeros((side, side), np.float32)
    sources = ((np.arange(size) + 0.5) * side / size - 0.5).clip(0, side - 1)
    lower = np.floor(sources).astype(np.int64)
    upper = np.minimum(lower + 1, side - 1)
    targets = np.arange(size) + int(place * (side - size + 1))
    np.add.at(weights, (targets, lower), (1 - (sources - lower)).astype(np.float32))
    np.add.at(weights, (targets, upper), (sources - lower).astype(np.float32))
    return weights
