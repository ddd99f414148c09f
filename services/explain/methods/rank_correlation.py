"""How alike two explanations are: Spearman, "The Proof and Measurement of Association between Two Things", 1904; used
as in Adebayo et al., "Sanity Checks for Saliency Maps", 2018."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Floats


def rank_correlation(a: Floats, b: Floats) -> float:
    """Of the values' sizes, -1 to 1; 0 if either has only one."""
    first, second = (_ranks(np.abs(values).ravel()) for values in (a, b))
    if not (first.std() and second.std()):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Floats) -> NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[inverse])
