"""The best sequence of tags against all sequences, and the spans that tags mark."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from artifacts.tagging import INSIDE, TaggedSpan, best_tags, may_follow, spans_of

TAGS = ("O", "B-city", "I-city", "B-time", "I-time")


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_no_allowed_sequence_is_more_probable(seed: int, words: int) -> None:
    scores = np.random.default_rng(seed).normal(0, 2, (words, len(TAGS)))
    follows = may_follow(TAGS)
    allowed = [
        path
        for path in product(range(len(TAGS)), repeat=words)
        if not TAGS[path[0]].startswith(INSIDE) and all(follows[a, b] for a, b in pairwise(path))
    ]
    best = max(allowed, key=lambda path: scores[np.arange(words), list(path)].sum())
    assert tuple(best_tags(scores, TAGS)) == best


def test_a_span_begins_at_b_and_has_the_least_probability_of_its_words() -> None:
    probabilities = np.zeros((6, len(TAGS)))
    chosen = [1, 2, 1, 0, 3, 4]
    probabilities[np.arange(6), chosen] = (0.9, 0.5, 0.8, 1, 0.7, 0.6)
    assert spans_of(chosen, TAGS, probabilities) == [
        TaggedSpan("city", 0, 2, 0.5),
        TaggedSpan("city", 2, 3, 0.8),
        TaggedSpan("time", 4, 6, 0.6),
    ]


def test_other_tags_mark_each_word_for_itself() -> None:
    assert spans_of([0, 1, 1], ("DET", "NOUN")) == [
        TaggedSpan("DET", 0, 1),
        TaggedSpan("NOUN", 1, 2),
        TaggedSpan("NOUN", 2, 3),
    ]
