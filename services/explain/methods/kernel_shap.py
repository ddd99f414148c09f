"""Kernel SHAP: Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", 2017."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Remaining


async def kernel_shap(
    groups: NDArray[np.int64], remaining: Remaining, *, samples: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Shapley values of groups, shared evenly by their pixels: `[*pixels]`, in the output's unit.

    Sizes of coalitions are drawn by Shapley's kernel, so that all count alike in the regression; that values add up is
    a constraint of it.

    Args:
        groups: of each pixel, feature or word, from 0: `[*pixels]`; two at least.

    Returns:
        The values, and the difference that the whole input makes, which they add up to.
    """
    players = int(groups.max()) + 1
    present = coalitions(players, samples, seed)
    answers = await remaining(np.concatenate([np.eye(2)[:, :1] * np.ones(players), present])[:, groups])
    full, nothing = answers[0], answers[1]
    # The last player has what the others leave, so that the sum is exact.
    design = present[:, :-1] - present[:, -1:]
    response = answers[2:] - nothing - present[:, -1] * (full - nothing)
    others = np.linalg.lstsq(design, response, rcond=None)[0]
    values = np.append(others, full - nothing - others.sum())
    shares = values / np.bincount(groups.ravel())
    return np.asarray(shares[groups]), float(full - nothing)


def coalitions(players: int, count: int, seed: int) -> NDArray[np.float64]:
    """Random sets of players, neither none nor all, each followed by its complement: `[count, players]`, 0 or 1."""
    random = np.random.default_rng(seed)
    sizes = np.arange(1, players)
    likelihood = 1 / (sizes * (players - sizes))
    drawn = random.choice(sizes, -(-count // 2), p=likelihood / likelihood.sum())
    ranks = random.random((len(drawn), players)).argsort(1).argsort(1)
    present = (ranks < drawn[:, None]).astype(np.float64)
    return np.stack([present, 1 - present], 1).reshape(-1, players)[:count]
