"""Integrated gradients: Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017; by Gauss-Legendre
quadrature."""

from __future__ import annotations

import numpy as np

from services.explain.methods.asking import Derive, Floats


async def integrated_gradients(x: Floats, baseline: Floats, derive: Derive, *, steps: int) -> tuple[Floats, float]:
    """Gradients along the line from the baseline to the input, times its length, like x; in the output's unit.

    Returns:
        The values, and the difference between both ends, which they should add up to.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    places = ((1 + points) / 2).astype(np.float32).reshape(-1, *[1] * x.ndim)
    # Both ends travel along, as their difference is what the values should add up to.
    way = np.concatenate([baseline + places * (x - baseline), x[None], baseline[None]])
    total, done, values = np.zeros(x.shape, np.float64), 0, []
    async for batch in derive(way):
        shares = weights[done : done + len(batch.gradients)] / 2
        total += np.tensordot(shares, batch.gradients[: len(shares)], 1)
        done += len(batch.gradients)
        values.append(batch.values)
    at_x, at_baseline = np.concatenate(values)[-2:]
    return (total * (x - baseline)).astype(np.float32), float(at_x - at_baseline)
