"""Maps of values to pictures that everyone can read."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Sixteen equidistant colours of cividis (Nuñez et al. 2018, "Optimizing colormaps with consideration for color vision
# deficiency to enable accurate interpretation of scientific data"): evenly lighter to every kind of eye.
_ANCHORS = (
    "00224e 002e6c 1e3a6f 35456c 47516c 575d6d 666970 757575 "
    "848279 948e77 a59c74 b7a96e c8b866 dbc75a eed649 fee838"
)  # fmt: skip
_PALETTE = (
    np.stack(
        [
            np.interp(np.linspace(0, 15, 256), range(16), channel)
            for channel in np.frombuffer(bytes.fromhex(_ANCHORS), np.uint8).reshape(16, 3).T
        ],
        axis=1,
    )
    .round()
    .astype(np.uint8)
    .tobytes()
)


def heat_map(values: NDArray[np.float32], scale: int) -> bytes:
    """Values `[height, width]` as a PNG file of `scale` times that size, smoothly enlarged.

    Values from 0 to 1 go from the darkest to the lightest colour; others get the nearer of the two.
    """
    height, width = values.shape
    levels = Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8))
    enlarged = levels.resize((scale * width, scale * height), Image.Resampling.BILINEAR)
    enlarged.putpalette(_PALETTE)
    buffer = io.BytesIO()
    enlarged.save(buffer, "PNG")
    return buffer.getvalue()
