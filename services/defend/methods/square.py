"""Square: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search",
2020; L-inf."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from services.defend.methods.pixels import RANGE, Floats, Images, Randoms, shrunk_to_pixels

# Progress at which the squares' share of the image is halved, as in the paper.
HALVINGS: Sequence[float] = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


async def square(
    images: Images,
    margins: Callable[[Images], Awaitable[Floats]],
    randoms: Randoms,
    *,
    epsilon: float,
    queries: int,
) -> Floats:
    """Starts as stripes, then changes squares, ever smaller ones, and keeps what brings the answer nearer; the attacked
    images, float32 of 0 to 255.

    Args:
        margins: how far the model is from the goal, in logits `[N]`; below 0 = it is there.
        epsilon: how far each value may go, in pixel values.
    """
    origin = images.astype(np.float32)
    height, width, channels = origin.shape[1:]
    stripes = np.stack([random.choice((-1, 1), (1, width, channels)) for random in randoms])
    change = np.broadcast_to(epsilon * stripes, origin.shape).astype(np.float32)
    best = np.full(len(images), np.inf, np.float32)
    candidate = change
    for query in range(queries):
        if not (unreached := np.flatnonzero(best > 0)).size:
            break
        reached = await margins(shrunk_to_pixels(_moved(origin, candidate), images, epsilon))
        change = np.where((reached < best)[:, None, None, None], candidate, change)
        best = np.minimum(best, reached)
        side = max(1, round(math.sqrt(_share(query / queries) * height * width)))
        side = min(side, height, width)
        candidate = change.copy()
        for i in unreached:
            top, left = randoms[i].integers(height - side + 1), randoms[i].integers(width - side + 1)
            signs = randoms[i].choice((-1, 1), (1, 1, channels))
            candidate[i, top : top + side, left : left + side] = epsilon * signs
    return _moved(origin, change)


def _share(progress: float) -> float:
    """Of the image that a square covers."""
    return 0.3 * 0.5 ** sum(progress > halving for halving in HALVINGS)


def _moved(origin: Floats, change: Floats) -> Floats:
    return np.asarray((origin + change).clip(0, RANGE), np.float32)
