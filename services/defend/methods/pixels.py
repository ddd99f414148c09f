"""Values of pixels: what images are made of, and how numbers become them again."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]  # [N, height, width, channels], values 0 to 255
Randoms = list[np.random.Generator]  # one of each image, so that it does not depend on what else is with it

RANGE = 255
TOLERANCE = 1e-3  # of a pixel value, by which sums of steps may be off


def rounded(xs: Floats) -> Images:
    """The nearest values that pixels have."""
    pixels: Images = np.rint(xs.clip(0, RANGE)).astype(np.uint8)
    return pixels


def shrunk_to_pixels(xs: Floats, images: Images, epsilon: float = math.inf) -> Images:
    """Values of pixels, rounded towards those of the original, so that the change grows by nothing."""
    change = xs - images
    whole_steps = np.floor(np.abs(change).clip(max=epsilon) + TOLERANCE)
    return np.asarray(images + np.sign(change) * whole_steps, np.uint8)
