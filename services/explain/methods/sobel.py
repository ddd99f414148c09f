"""Where an image changes most, which explanations are compared with: Sobel & Feldman, "A 3x3 Isotropic Gradient
Operator for Image Processing", 1968."""

from __future__ import annotations

import numpy as np

from services.explain.methods.asking import Floats

LUMA = np.array([0.299, 0.587, 0.114])


def edges(image: Floats) -> Floats:
    """Length of the gradient of the grey image, `[height, width]`; in units of `image` `[height, width, 1 or 3]`."""
    grey = np.pad(image @ LUMA if image.shape[2] == 3 else image[:, :, 0], 1, mode="edge")
    smooth = grey[:-2] + 2 * grey[1:-1] + grey[2:], grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    return np.asarray(np.hypot(smooth[0][:, 2:] - smooth[0][:, :-2], smooth[1][2:] - smooth[1][:-2]), np.float32)
