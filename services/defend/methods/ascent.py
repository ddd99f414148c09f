"""Steps along gradients within a ball, of which FGSM, I-FGSM, MI-FGSM, DI-MI-FGSM and PGD are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from services.defend.methods.ball import Ball
from services.defend.methods.pixels import Floats

# Images `[N, height, width, channels]` -> where each has to go: the gradient of what shall grow, like them.
Directions = Callable[[Floats], Awaitable[Floats]]


async def ascend(
    xs: Floats, origin: Floats, directions: Directions, ball: Ball, *, step: float, steps: int, decay: float = 0.0
) -> Floats:
    """Images float32 `[N, height, width, channels]`, 0 to 255, in the ball around `origin`.

    Args:
        xs: where they start.
        step: size of a step by the ball's norm, in pixel values.
        decay: share of the sum of earlier directions that is kept; 0 = nothing.
    """
    momentum = np.zeros_like(origin)
    for _ in range(steps):
        direction = await directions(xs)
        if decay:
            mean = np.abs(direction).mean((1, 2, 3), keepdims=True)
            direction = momentum = decay * momentum + direction / np.maximum(mean, np.float32(1e-30))
        xs = ball.nearest(xs + np.float32(step) * ball.steepest(direction), origin)
    return xs
