"""Feature squeezing: an attack survives less of an image than its content does, so the answer to a squeezed copy moves.

One way for training, which calibrates the score, and services, which give it. Xu et al., "Feature Squeezing: Detecting
Adversarial Examples in Deep Neural Networks", 2018; with JPEG for a squeezer, as Das et al., "SHIELD", 2018.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Of those tried on attacked and clean photos of the validation split, these two told them apart best.
QUALITY = 80
WINDOW = 2
# What a card's `decision` calls the score that so large a share of clean images exceeds.
THRESHOLD = "attack_score_at_false_positive_rate_"
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def bit_depth(images: Images, bits: int) -> Images:
    """Each value rounded to one of 2^bits levels between 0 and 255."""
    levels = 2**bits - 1
    table = np.rint(np.rint(np.arange(256) * (levels / 255)) * (255 / levels)).astype(np.uint8)
    return np.asarray(table[images])


def median(images: Images, window: int) -> Images:
    """Each value the median of the window x window around it, or before it if that is even; edges are repeated."""
    before, after = window // 2, (window - 1) // 2
    padded = np.pad(images, ((0, 0), (before, after), (before, after), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), axis=(1, 2))
    return np.asarray(np.median(windows.reshape(*images.shape, -1), axis=-1), np.uint8)


def jpeg(images: Images, quality: int) -> Images:
    """Each image compressed and decompressed."""
    return np.stack([_compressed(image, quality) for image in images])


def squeezed(images: Images) -> tuple[Images, ...]:
    """Copies of images uint8 `[N, height, width, channels]` whose answers the score compares with theirs."""
    return jpeg(images, QUALITY), median(images, WINDOW)


def scores(probabilities: Floats, of_squeezed: Sequence[Floats]) -> Floats:
    """How far the answer moves, 0 to 2: of probabilities `[N, K]`, the largest L1 distance to a copy's; `[N]`."""
    return np.asarray(np.max([np.abs(probabilities - other).sum(1) for other in of_squeezed], axis=0))


def _compressed(image: Images, quality: int) -> Images:
    file = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)
