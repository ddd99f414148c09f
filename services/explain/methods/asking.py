"""The functions by which methods ask a model, and what these return."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Derivatives:
    """What the gradient graph gives for a batch of inputs.

    Args:
        gradients: of the explained output by each value of the inputs, `[N, *x.shape]`.
        values: the explained output, `[N]`.
        maps: of each layer that has one, its channels weighted by their mean gradient, `[N, height, width]`.
    """

    gradients: Floats
    values: Floats
    maps: Mapping[str, Floats] = field(default_factory=dict)


# Inputs `[N, *x.shape]` -> derivatives of the explained output, a batch at a time.
Derive = Callable[[Floats], AsyncIterator[Derivatives]]
# How much of each pixel, feature or word of x is there, `[N, *pixels]` of 0 to 1, the rest being baseline -> the
# explained output `[N]`.
Remaining = Callable[[NDArray[Any]], Awaitable[Floats]]


async def gradient(x: Floats, derive: Derive) -> Floats:
    """The gradient at one input, like x."""
    (batch,) = [batch async for batch in derive(x[None])]
    return np.asarray(batch.gradients[0])
