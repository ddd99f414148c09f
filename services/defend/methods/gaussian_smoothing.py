"""Gaussian smoothing, which takes away what is finer than its deviation: Xu et al., "Feature Squeezing", 2018, discuss
spatial smoothing as a defence."""

from __future__ import annotations

import numpy as np

from services.defend.methods.pixels import Floats
from services.defend.methods.resampling import Resampling


def gaussian_smoothing(height: int, width: int, sigma: float) -> Resampling:
    """Smoothing with a standard deviation of `sigma` pixels; edges are repeated."""
    return Resampling(_weights(height, sigma)[None], _weights(width, sigma)[None])


def _weights(side: int, sigma: float) -> Floats:
    reach = int(np.ceil(4 * sigma))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = np.zeros((side, side), np.float32)
    for offset, weight in zip(range(-reach, reach + 1), bell / bell.sum(), strict=True):
        np.add.at(weights, (np.arange(side), (np.arange(side) + offset).clip(0, side - 1)), np.float32(weight))
    return weights
