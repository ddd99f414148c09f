"""Texts of any length for models that read a window of tokens: how they are fed, how their answers are put together.

One way for training and services alike. A window is `[CLS] text [SEP]`, or `[CLS] question [SEP] context [SEP]` (Devlin
et al., "BERT", 2019); rows end in padding. Spans of several windows compete with each other and with "no
answer" in one softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAD, UNK, CLS, SEP = range(4)  # how every text model numbers its special tokens
OVERLAP = 64
LONGEST_ANSWER = 30
# Rows are padded to multiples of this, so that requests of like lengths can share a batch.
GRAIN = 32


@dataclass(frozen=True)
class Windows:
    """Rows for the encoder.

    Args:
        ids, segments: int64 `[N, T]`; segment 1 is a context, 0 everything else.
        first: of each row, which token of the text its window begins with.
        before: tokens of each row before its window.
        sizes: tokens of each window.
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    first: tuple[int, ...]
    before: int
    sizes: tuple[int, ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row `[N]`, those around the window included."""
        lengths: NDArray[np.int64] = (self.ids != PAD).sum(axis=1)
        return lengths


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `end`, inclusive, of a context, and how probable they are the answer."""

    start: int
    end: int
    probability: float


def text_windows(tokens: Sequence[int], max_tokens: int) -> Windows:
    """A text in windows side by side."""
    return _windows([CLS], tokens, max_tokens, overlap=0, segment=0)


def question_windows(
    question: Sequence[int], context: Sequence[int], max_tokens: int, overlap: int = OVERLAP
) -> Windows:
    """A question with each window of its context; neighbours share `overlap` tokens."""
    return _windows(
        [CLS, *question, SEP], context, max_tokens, min(overlap, (max_tokens - len(question)) // 4), segment=1
    )


def mean_embedding(embeddings: NDArray[np.float32], windows: Windows) -> NDArray[np.float32]:
    """Mean embeddings `[N, C]` of the windows of one text, as the mean `[1, C]` over all of their tokens."""
    weights = windows.lengths / windows.lengths.sum()
    mean: NDArray[np.float32] = (weights[:, None] * embeddings).sum(axis=0, keepdims=True).astype(np.float32)
    return mean


def best_spans(
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
    windows: Windows,
    words: Sequence[int],
    count: int,
) -> tuple[list[Span], float]:
    """The `count` most probable answers of whole words, best first, and the probability that there is none.

    Args:
        starts, ends: logits `[N, T]` of being the answer's first and last token; at [CLS], of there being none.
        words: of each token of the context, which word it belongs to; -1 = to none.
    """
    tokens = windows.first[-1] + windows.sizes[-1]
    scores = np.full((tokens, LONGEST_ANSWER), -np.inf, dtype=np.float64)  # by first token, and how many follow
    for start, end, first, size in zip(starts, ends, windows.first, windows.sizes, strict=True):
        own = slice(windows.before, windows.before + size)
        following = np.concatenate([end[own], np.full(LONGEST_ANSWER - 1, -np.inf)])
        pair_scores = start[own, None] + np.lib.stride_tricks.sliding_window_view(following, LONGEST_ANSWER)
        rows = slice(first, first + size)
        scores[rows] = np.maximum(scores[rows], pair_scores)
    heads = np.diff(np.asarray(words), prepend=-1) != 0
    tails = np.concatenate([np.append(heads[1:], True), np.zeros(LONGEST_ANSWER - 1, dtype=bool)])
    scores[~(heads[:, None] & np.lib.stride_tricks.sliding_window_view(tails, LONGEST_ANSWER))] = -np.inf
    # A window without the answer says so; there is none if every window says so.
    none = float((starts[:, 0] + ends[:, 0]).min())
    highest = max(none, scores.max())
    probabilities = np.exp(scores - highest)
    total = probabilities.sum() + np.exp(none - highest)
    flat = (probabilities / total).ravel()
    count = min(count, int(np.count_nonzero(np.isfinite(scores))))
    best = np.argsort(-flat, kind="stable")[:count]
    spans = [Span(i // LONGEST_ANSWER, i // LONGEST_ANSWER + i % LONGEST_ANSWER, float(flat[i])) for i in best.tolist()]
    return spans, float(np.exp(none - highest) / total)


def padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Rows of different lengths as one array `[N, T]`, filled up with `PAD` to a multiple of `GRAIN`."""
    width = -(-max(map(len, rows)) // GRAIN) * GRAIN
    array = np.zeros((len(rows), width), dtype=np.int64)
    for row, values in zip(array, rows, strict=True):
        row[: len(values)] = values
    return array


def stacked(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Padded arrays `[N, T]` of different widths as one."""
    width = max(array.shape[1] for array in arrays)
    return np.concatenate([np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays])


def _windows(prefix: Sequence[int], tokens: Sequence[int], max_tokens: int, overlap: int, segment: int) -> Windows:
    size = max_tokens - len(prefix) - 1
    last = max(0, len(tokens) - overlap - 1)
    first = tuple(range(0, last + 1, size - overlap))
    parts = [tokens[i : i + size] for i in first]
    ids = padded([[*prefix, *part, SEP] for part in parts])
    segments = padded([[0] * len(prefix) + [segment] * (len(part) + 1) for part in parts])
    return Windows(ids, segments, first, len(prefix), tuple(map(len, parts)))
