"""Attention: the weights of a Transformer's last layer, Vaswani et al., "Attention Is All You Need", 2017. Where a
model looks need not be why it answers: Jain & Wallace, "Attention is not Explanation", 2019."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.explain.methods.asking import Floats


def attention_by_word(weights: Floats, words: NDArray[np.int64], count: int = 0) -> Floats:
    """The sum of the attention that a word's tokens get, `[words]`: shares of 1.

    Args:
        weights: `[tokens]`.
        words: of each token, the place of its word: `[tokens]`.
        count: how many words there are, the last of which may have no token here.
    """
    return np.bincount(words, weights, count).astype(np.float32)


def mean_attention(weights: Floats, lengths: NDArray[np.int64]) -> list[Floats]:
    """Of each window, what its tokens get from all tokens of all windows together, `[T]`: shares of 1.

    Args:
        weights: from each token of a window to each, `[windows, T, T]`.
        lengths: how many tokens each window has; the rest is padding.
    """
    return [rows[:length].sum(0) / lengths.sum() for rows, length in zip(weights, lengths, strict=True)]
