"""What recipes measure a served model with: images as the files that a client sends, and progress."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Track(Protocol):
    """Wraps an iterable to show progress."""

    def __call__(self, items: Iterable[Any], total: int) -> Iterable[Any]: ...


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image [H, W, 3] or [H, W] as the file that a client sends."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
