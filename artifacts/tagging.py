"""Tags of words, in the scheme BIO, and the spans that they mark (Ramshaw and Marcus, "Text Chunking using
Transformation-Based Learning", 1995): `B-artist` begins a span, `I-artist` goes on with it, `O` is in none.

Tags of any other form, such as parts of speech, mark each word for itself. One way for training and services alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTSIDE, BEGIN, INSIDE = "O", "B-", "I-"


@dataclass(frozen=True)
class TaggedSpan:
    """Words `start` to before `end` that have a label together, and the least probability of their tags."""

    label: str
    start: int
    end: int
    probability: float = 1.0


def best_tags(scores: NDArray[np.floating], tags: Sequence[str]) -> NDArray[np.int64]:
    """The most probable sequence of tags in which every `I-` goes on with a span of its label, by Viterbi's algorithm.

    Args:
        scores: logarithms of the probability of each tag of each word [T, len(tags)].
    """
    barriers = np.where(may_follow(tags), 0.0, -np.inf)
    best = scores[0] + np.where([tag.startswith(INSIDE) for tag in tags], -np.inf, 0.0)
    came_from = np.zeros(scores.shape, np.int64)
    for word in range(1, len(scores)):
        paths = best[:, None] + barriers
        came_from[word] = paths.argmax(axis=0)
        best = paths.max(axis=0) + scores[word]
    chosen = [int(best.argmax())]
    for word in range(len(scores) - 1, 0, -1):
        chosen.append(int(came_from[word, chosen[-1]]))
    return np.array(chosen[::-1])


def may_follow(tags: Sequence[str]) -> NDArray[np.bool_]:
    """Whether a tag may follow another, [len(tags), len(tags)]: from the first axis to the second."""
    allowed = np.ones((len(tags), len(tags)), np.bool_)
    for i, tag in enumerate(tags):
        if tag.startswith(INSIDE):
            label = tag.removeprefix(INSIDE)
            allowed[:, i] = [before in (BEGIN + label, INSIDE + label) for before in tags]
    return allowed


def spans_of(
    chosen: Sequence[int], tags: Sequence[str], probabilities: NDArray[np.floating] | None = None
) -> list[TaggedSpan]:
    """The spans that tags mark, in order; of `probabilities` [T, len(tags)] each has the least of its own."""
    spans: list[TaggedSpan] = []
    for word, number in enumerate(chosen):
        tag = tags[number]
        if tag == OUTSIDE:
            continue
        probability = 1.0 if probabilities is None else float(probabilities[word, number])
        if tag.startswith(INSIDE) and spans and spans[-1].end == word:
            last = spans.pop()
            spans.append(TaggedSpan(last.label, last.start, word + 1, min(last.probability, probability)))
        else:
            label = tag.removeprefix(BEGIN).removeprefix(INSIDE)
            spans.append(TaggedSpan(label, word, word + 1, probability))
    return spans
