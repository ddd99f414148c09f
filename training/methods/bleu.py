"""BLEU (Papineni et al., 2002), from counts of each sentence that add up, so that sentences can be resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU


def sentence_counts(texts: Sequence[str], references: Sequence[str], tokenize: str) -> NDArray[np.int64]:
    """What BLEU adds up of N texts with one reference each, [N, 2 * orders + 2]: n-grams in common by order, n-grams in
    all, and the lengths of text and reference. `tokenize` is sacrebleu's name of how words are told."""
    scorer = BLEU(tokenize=tokenize, effective_order=True)
    scored = [scorer.sentence_score(text, [right]) for text, right in zip(texts, references, strict=True)]
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scored], np.int64)


def corpus_bleu(counts: NDArray[np.int64]) -> float:
    """BLEU of sentences of which `sentence_counts` are [N, 2 * orders + 2]."""
    *ngrams, length, reference = counts.sum(axis=0).tolist()
    common, every = ngrams[: len(ngrams) // 2], ngrams[len(ngrams) // 2 :]
    return float(BLEU.compute_bleu(common, every, length, reference, smooth_method="exp").score)
