"""PGD: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018."""

from __future__ import annotations

import numpy as np

from services.defend.methods.ascent import Directions, ascend
from services.defend.methods.ball import Ball
from services.defend.methods.pixels import Floats, Images, Randoms


async def pgd(
    images: Images, directions: Directions, ball: Ball, randoms: Randoms, *, step: float, steps: int
) -> Floats:
    """Steps of `step` pixel values from a random place in the ball; the attacked images, float32 of 0 to 255."""
    origin = images.astype(np.float32)
    return await ascend(ball.random(origin, randoms), origin, directions, ball, step=step, steps=steps)
