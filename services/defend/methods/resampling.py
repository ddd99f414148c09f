"""Linear changes of images that treat rows and columns apart, and what they do to gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.defend.methods.pixels import Floats


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


def unchanged(height: int, width: int) -> tuple[Floats, Floats]:
    """The rows and columns that change nothing."""
    return np.eye(height, dtype=np.float32), np.eye(width, dtype=np.float32)


def _multiplied(images: Floats, rows: Floats, columns: Floats) -> Floats:
    n, height, width, channels = images.shape
    down = (rows @ images.reshape(n, height, width * channels)).reshape(images.shape)
    return np.asarray(columns[:, None] @ down, np.float32)
