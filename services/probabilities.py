"""Probabilities into messages of scored classes, best first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lectern.v1 import classify_pb2 as pb


def best_first(probabilities: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[list[pb.ScoredClass]]:
    """The classes of each row of `[N, len(labels)]`, best first; `top_k` 0 = all."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, : top_k or None]
    return [
        [pb.ScoredClass(label=labels[i], index=i, probability=row[i]) for i in order]
        for row, order in zip(probabilities.tolist(), best.tolist(), strict=True)
    ]
