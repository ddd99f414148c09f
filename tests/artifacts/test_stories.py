"""A story as a memory network reads it: the last sentence first, and stand-ins for words that it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.stories import FIRST_STAND_IN, FIRST_WORD, STAND_INS, Word, story
from artifacts.windows import PAD, UNK

pytestmark = pytest.mark.unit
KNOWN = {word: FIRST_WORD + i for i, word in enumerate(("went", "to", "the", "where", "is", "mary"))}


def words(text: str) -> list[Word]:
    return [Word(word, KNOWN.get(word.lower(), UNK)) for word in text.split()]


def test_the_last_sentence_comes_first_and_the_oldest_are_forgotten() -> None:
    told = [words("Mary went"), words("Mary is"), words("is the")]
    read = story(told, words("where is Mary"), memory=2, width=4)
    assert read.sentences.tolist() == [
        [KNOWN["is"], KNOWN["the"], PAD, PAD],
        [KNOWN["mary"], KNOWN["is"], PAD, PAD],
    ]
    assert read.question.tolist() == [KNOWN["where"], KNOWN["is"], KNOWN["mary"], PAD]
    assert story(told[:1], words("where"), memory=2, width=4).sentences[1].tolist() == [PAD] * 4


def test_an_unknown_word_has_the_same_stand_in_wherever_it_stands() -> None:
    read = story([words("Priya went to the attic"), words("priya is")], words("where is PRIYA"), memory=5, width=6)
    assert read.unknown == ("Priya", "attic")
    assert read.sentences[1, [0, 4]].tolist() == [FIRST_STAND_IN, FIRST_STAND_IN + 1]
    assert read.sentences[0, 0] == read.question[2] == FIRST_STAND_IN
    labels = ("garden", *STAND_INS)
    assert read.answers(labels) == {0: "garden", 1: "Priya", 2: "attic"}


def test_when_no_stand_in_is_left_a_word_stays_unknown() -> None:
    strange = [f"x{i}" for i in range(len(STAND_INS) + 2)]
    read = story([words(" ".join(strange))], words("where"), memory=1, width=len(strange))
    assert read.unknown == tuple(strange)
    np.testing.assert_array_equal(read.sentences[0, :-2], FIRST_STAND_IN + np.arange(len(STAND_INS)))
    assert read.sentences[0, -2:].tolist() == [UNK, UNK]
    assert list(read.answers(STAND_INS).values()) == strange[: len(STAND_INS)]


def test_a_story_of_known_words_has_no_stand_in_for_an_answer() -> None:
    assert story([words("Mary went")], words("where"), 1, 2).answers(("garden", *STAND_INS)) == {0: "garden"}
