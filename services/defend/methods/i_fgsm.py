"""I-FGSM: Kurakin et al., "Adversarial examples in the physical world", 2017."""

from __future__ import annotations

import numpy as np

from services.defend.methods.ascent import Directions, ascend
from services.defend.methods.ball import Ball
from services.defend.methods.pixels import Floats, Images, Randoms


async def i_fgsm(
    images: Images, directions: Directions, ball: Ball, randoms: Randoms, *, step: float, steps: int
) -> Floats:
    """Steps of `step` pixel values; the attacked images, float32 of 0 to 255."""
    origin = images.astype(np.float32)
    return await ascend(origin, origin, directions, ball, step=step, steps=steps)
