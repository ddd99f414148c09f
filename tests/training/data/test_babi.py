"""Stories with their questions, as bAbI and the fresh ones write them."""

from __future__ import annotations

import json

import pytest

from training.data import SLIVERS, babi, fresh
from training.data.babi import TASKS, Question

pytestmark = pytest.mark.unit
LINES = [
    "1 Mary took the milk.",
    "2 Mary went to the office.",
    "3 Where is the milk? \toffice\t1 2",
    "4 John took the apple.",
    "5 What is Mary carrying?\tmilk\t1",
    "1 Sandra went to the garden.",
    "2 Where is Sandra? \tgarden\t1",
]


def test_a_question_knows_the_sentences_before_it() -> None:
    first, second = babi.stories_of(LINES)
    assert (first, second) == (LINES[:5], LINES[5:])
    whole = "\n".join(first)
    taken, moved, apple = "Mary took the milk.", "Mary went to the office.", "John took the apple."
    assert list(babi.questions_of(2, first)) == [
        Question(2, whole, (taken, moved), "Where is the milk?", "office"),
        Question(2, whole, (taken, moved, apple), "What is Mary carrying?", "milk"),
    ]


def test_the_slivers_parts_share_no_story_and_have_every_task() -> None:
    path = SLIVERS / "memory_reader.json"
    data = babi.load_sliver(path)
    parts = [{question.story for question in part} for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(json.loads(path.read_text()))
    assert {question.task for question in data.train} == set(TASKS)


def test_fresh_stories_are_answered_in_a_word_and_some_have_words_of_no_task() -> None:
    asked = fresh.stories()
    assert len(asked) >= 40
    assert all(question.sentences and question.answer == question.answer.lower() for question in asked)
    data = babi.load_sliver(SLIVERS / "memory_reader.json")
    assert {question.answer for question in asked} - {question.answer for question in data.train}
