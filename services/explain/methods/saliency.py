"""Saliency: Simonyan et al., "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency
Maps", 2014."""

from __future__ import annotations

import numpy as np

from services.explain.methods.asking import Derive, Floats, gradient


async def saliency(x: Floats, derive: Derive) -> Floats:
    """The size of the gradient, like x; in the output's unit for one unit of x."""
    return np.abs(await gradient(x, derive))
