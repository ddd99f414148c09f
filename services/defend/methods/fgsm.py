"""FGSM: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015."""

from __future__ import annotations

import numpy as np

from services.defend.methods.ascent import Directions, ascend
from services.defend.methods.ball import Ball
from services.defend.methods.pixels import Floats, Images, Randoms


async def fgsm(images: Images, directions: Directions, ball: Ball, randoms: Randoms) -> Floats:
    """One step of size epsilon; the attacked images, float32 of 0 to 255."""
    origin = images.astype(np.float32)
    return await ascend(origin, origin, directions, ball, step=ball.epsilon, steps=1)
