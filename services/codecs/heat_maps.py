"""Draws maps of values as PNG files, in colours that everyone can tell apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.codecs.png import encode_png

# Sixteen equidistant colours of cividis (Nuñez et al. 2018, "Optimizing colormaps with consideration for color vision
# deficiency to enable accurate interpretation of scientific data"): evenly lighter to every kind of eye.
_ANCHORS = (
    "00224e 002e6c 1e3a6f 35456c 47516c 575d6d 666970 757575 "
    "848279 948e77 a59c74 b7a96e c8b866 dbc75a eed649 fee838"
)  # fmt: skip
# From blue through white to orange, alike in lightness on both sides, and never red beside green.
_TWO_SIDED_ANCHORS = "08306b 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fee0b6 fdb863 e08214 b35806 7f3b08"


def _palette(anchors: str) -> NDArray[np.uint8]:
    colours = np.frombuffer(bytes.fromhex(anchors), np.uint8).reshape(-1, 3)
    places = np.linspace(0, len(colours) - 1, 256)
    channels = [np.interp(places, range(len(colours)), channel) for channel in colours.T]
    return np.stack(channels, axis=1).round().astype(np.uint8)


_PALETTE, _TWO_SIDED = _palette(_ANCHORS), _palette(_TWO_SIDED_ANCHORS)


def colours(values: NDArray[np.float32], *, two_sided: bool = False) -> NDArray[np.uint8]:
    """A colour `[..., 3]` for each value: 0 to 1 from dark to light, or -1 to 1 from blue through white to orange."""
    level = (values + 1) / 2 if two_sided else values
    palette = _TWO_SIDED if two_sided else _PALETTE
    painted: NDArray[np.uint8] = palette[(255 * level.clip(0, 1)).round().astype(np.uint8)]
    return painted


def heat_map(values: NDArray[np.float32], scale: int) -> bytes:
    """Draw values `[height, width]` as a PNG file, smoothly enlarged `scale` times.

    Values from 0 to 1 go from the darkest to the lightest colour; values outside are clipped.
    """
    height, width = values.shape
    levels = Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8))
    enlarged = levels.resize((scale * width, scale * height), Image.Resampling.BILINEAR)
    return encode_png(np.asarray(enlarged)[:, :, None], _PALETTE)
