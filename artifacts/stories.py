"""Stories as a memory network reads them: one way for training and services alike.

The sentences of a story are rows of word ids, the last one first, so that a place in the memory is an age. A word that
the vocabulary lacks gets a stand-in, the same word the same one, and an answer that is a stand-in is that word (Hermann
et al., "Teaching Machines to Read and Comprehend", 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.windows import PAD, UNK

STAND_INS = tuple(f"[{i}]" for i in range(1, 9))
FIRST_STAND_IN = UNK + 1
FIRST_WORD = FIRST_STAND_IN + len(STAND_INS)


@dataclass(frozen=True)
class Word:
    """A word as its writer has it, and its id in the vocabulary; `UNK` = it has none."""

    text: str
    id: int


@dataclass(frozen=True)
class Story:
    """What the graph takes.

    Args:
        sentences: int64 `[S, W]`, the last one first; 0 = padding.
        question: int64 `[W]`.
        unknown: the words that the vocabulary lacks, in order; the first have the stand-ins, in their order.
    """

    sentences: NDArray[np.int64]
    question: NDArray[np.int64]
    unknown: tuple[str, ...]

    def answers(self, labels: Sequence[str]) -> dict[int, str]:
        """What each label of the card says here, by its index: of a stand-in, the word for which it stands; those that
        stand for none are left out."""
        words = dict(zip(STAND_INS, self.unknown, strict=False))
        return {
            i: words.get(label, label) for i, label in enumerate(labels) if label in words or label not in STAND_INS
        }


def story(sentences: Sequence[Sequence[Word]], question: Sequence[Word], memory: int, width: int) -> Story:
    """The latest `memory` sentences and the question, each of at most `width` words."""
    stand_ins: dict[str, int] = {}
    unknown: list[str] = []

    def ids(words: Sequence[Word]) -> NDArray[np.int64]:
        row = np.full(width, PAD, np.int64)
        for place, word in enumerate(words):
            row[place] = word.id
            if word.id != UNK:
                continue
            if (key := word.text.casefold()) not in stand_ins:
                stand_ins[key] = FIRST_STAND_IN + len(unknown) if len(unknown) < len(STAND_INS) else UNK
                unknown.append(word.text)
            row[place] = stand_ins[key]
        return row

    rows = np.full((memory, width), PAD, np.int64)
    latest = sentences[-memory:]
    for place, words in enumerate(latest):
        rows[len(latest) - 1 - place] = ids(words)
    return Story(rows, ids(question), tuple(unknown))
