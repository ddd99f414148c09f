"""Maps of values to pictures that everyone can read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Sixteen equidistant colours of cividis (Nuñez et al. 2018, "Optimizing colormaps with consideration for color vision
# deficiency to enable accurate interpretation of scientific data"): evenly lighter to every kind of eye.
_ANCHORS = (
    "00224e 002e6c 1e3a6f 35456c 47516c 575d6d 666970 757575 "
    "848279 948e77 a59c74 b7a96e c8b866 dbc75a eed649 fee838"
)  # fmt: skip
CIVIDIS: NDArray[np.uint8] = np.stack(
    [
        np.interp(np.linspace(0, 15, 256), range(16), channel).round()
        for channel in np.frombuffer(bytes.fromhex(_ANCHORS), np.uint8).reshape(16, 3).T
    ],
    axis=1,
).astype(np.uint8)


def heat_map(values: NDArray[np.float32], scale: int) -> NDArray[np.uint8]:
    """Values `[height, width]` as colours uint8 `[scale * height, scale * width, 3]`, smoothly enlarged.

    Values from 0 to 1 go from the darkest to the lightest colour; others get the nearer of the two.
    """
    height, width = values.shape
    image = Image.fromarray(values.clip(0, 1).astype(np.float32))
    enlarged = np.asarray(image.resize((scale * width, scale * height), Image.Resampling.BILINEAR))
    return CIVIDIS[(255 * enlarged).round().astype(np.uint8)]
