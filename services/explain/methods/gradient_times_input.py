"""Gradient x input: Shrikumar et al., "Not Just a Black Box: Learning Important Features Through Propagating Activation
Differences", 2016."""

from __future__ import annotations

from services.explain.methods.asking import Derive, Floats, gradient


async def gradient_times_input(x: Floats, baseline: Floats, derive: Derive) -> Floats:
    """The gradient times the input's distance from the baseline, like x; in the output's unit."""
    return await gradient(x, derive) * (x - baseline)
