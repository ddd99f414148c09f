"""Linear changes of images that treat rows and columns apart, and what they do to gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Resampling:
    """Images `[N, H, W, C]` multiplied by `rows` `[N or 1, H, H]` from above and by `columns` `[N or 1, W, W]` from
    the side."""

    rows: Floats
    columns: Floats

    def apply(self, images: Floats) -> Floats:
        """The changed images."""
        return _multiplied(images, self.rows, self.columns)

    def adjoint(self, gradients: Floats) -> Floats:
        """Gradients by the changed images as gradients by those before."""
        return _multiplied(gradients, self.rows.swapaxes(1, 2), self.columns.swapaxes(1, 2))


def blur(height: int, width: int, sigma: float) -> Resampling:
    """Gaussian smoothing of `sigma` pixels; edges are repeated."""
    return Resampling(_gaussian(height, sigma)[None], _gaussian(width, sigma)[None])


def shrunk(height: int, width: int, least: float, randoms: list[np.random.Generator]) -> Resampling:
    """Each image shrunk bilinearly to a random share of its sides, `least` to 1, somewhere on black."""
    pairs = [_shrunk_sides(height, width, least, random) for random in randoms]
    return Resampling(np.stack([rows for rows, _ in pairs]), np.stack([columns for _, columns in pairs]))


def unchanged(height: int, width: int) -> tuple[Floats, Floats]:
    """The rows and columns that change nothing."""
    return np.eye(height, dtype=np.float32), np.eye(width, dtype=np.float32)


def _shrunk_sides(height: int, width: int, least: float, random: np.random.Generator) -> tuple[Floats, Floats]:
    share, down, right = random.uniform(least, 1), random.random(), random.random()
    return _bilinear(height, share, down), _bilinear(width, share, right)


def _bilinear(side: int, share: float, place: float) -> Floats:
    """Maps a side of pixels to fewer of them, at `place` (0 to 1) of the room that this leaves; pixels' centres count
    (`align_corners=False`)."""
    size = max(1, round(side * share))
    found = np.zeros((side, side), np.float32)
    sources = ((np.arange(size) + 0.5) * side / size - 0.5).clip(0, side - 1)
    lower = np.floor(sources).astype(np.int64)
    upper = np.minimum(lower + 1, side - 1)
    targets = np.arange(size) + int(place * (side - size + 1))
    np.add.at(found, (targets, lower), (1 - (sources - lower)).astype(np.float32))
    np.add.at(found, (targets, upper), (sources - lower).astype(np.float32))
    return found


def _gaussian(side: int, sigma: float) -> Floats:
    reach = int(np.ceil(4 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    found = np.zeros((side, side), np.float32)
    for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
        np.add.at(found, (np.arange(side), (np.arange(side) + offset).clip(0, side - 1)), np.float32(weight))
    return found


def _multiplied(images: Floats, rows: Floats, columns: Floats) -> Floats:
    n, height, width, channels = images.shape
    down = (rows @ images.reshape(n, height, width * channels)).reshape(images.shape)
    return np.asarray(columns[:, None] @ down, np.float32)
