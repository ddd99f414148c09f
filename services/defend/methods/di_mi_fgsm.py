"""DI-MI-FGSM: Xie et al., "Improving Transferability of Adversarial Examples with Input Diversity", 2019."""

from __future__ import annotations

import numpy as np

from services.defend.methods.ascent import Directions, ascend
from services.defend.methods.ball import Ball
from services.defend.methods.pixels import Floats, Images, Randoms
from services.defend.methods.resampling import Resampling, unchanged
from services.defend.methods.resize_and_pad import resize_and_pad

LEAST_SHARE = 0.875  # of its side that an image is shrunk to


async def di_mi_fgsm(
    images: Images,
    directions: Directions,
    ball: Ball,
    randoms: Randoms,
    *,
    step: float,
    steps: int,
    decay: float,
    diversity: float,
) -> Floats:
    """As MI-FGSM, by gradients of images of which the share `diversity` is shrunk at random in each step; the attacked
    images, float32 of 0 to 255."""
    origin = images.astype(np.float32)

    async def diverse(xs: Floats) -> Floats:
        views = _views(xs.shape[1], xs.shape[2], diversity, randoms)
        return views.adjoint(await directions(views.apply(xs)))

    return await ascend(origin, origin, diverse, ball, step=step, steps=steps, decay=decay)


def _views(height: int, width: int, diversity: float, randoms: Randoms) -> Resampling:
    shrunk = [random.random() < diversity for random in randoms]
    views = resize_and_pad(height, width, LEAST_SHARE, randoms)
    same = unchanged(height, width)
    for i, is_shrunk in enumerate(shrunk):
        if not is_shrunk:
            views.rows[i], views.columns[i] = same
    return views
