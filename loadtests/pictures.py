"""Real pictures as PNG files, encoded once: what is measured is the server."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parents[1] / "training" / "data" / "slivers"
RANDOM = np.random.default_rng()


class Pictures:
    """The first 256 pictures of one of the slivers that recipes try themselves on."""

    def __init__(self, name: str) -> None:
        self.files = [_png(pixels) for pixels in np.load(DATA / name)["images"][:256]]

    def some(self, count: int) -> list[bytes]:
        """That many, drawn at random."""
        return [self.files[index] for index in RANDOM.integers(len(self.files), size=count)]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
