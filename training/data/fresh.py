"""Texts written for this project, of which no model has learned anything: tests/data/fresh, whose README says whose."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data import babi
from training.data.entailment import Pairs, pairs_of
from training.data.labelled_texts import Split, split_of
from training.data.questions import Question
from training.data.snips import Request, request_of

SENTIMENTS = ("negative", "neutral", "positive")
_SLOT = re.compile(r"\[([^]]+)\]\((\w+)\)")
DIRECTORY = Path(__file__).parents[2] / "tests" / "data" / "fresh"


@dataclass(frozen=True)
class Translated:
    """An English text of a kind, such as `dates`, and its translations, any of which is right."""

    kind: str
    english: str
    references: tuple[str, ...]


def texts(name: str, labels: tuple[str, ...]) -> Split:
    """Labelled texts of a file, each with its kind as its source."""
    return split_of((text, labels.index(label), kind) for label, kind, text in _rows(name))


def pairs() -> tuple[Pairs, tuple[str, ...]]:
    """Pairs of sentences, and the kind of each."""
    rows = list(_rows("pairs.tsv"))
    return pairs_of((premise, hypothesis, label) for label, _, premise, hypothesis in rows), tuple(r[1] for r in rows)


def other_languages() -> tuple[str, ...]:
    """Texts that are not English."""
    return tuple(text for _, text in _rows("other_languages.tsv"))


def questions() -> tuple[Question, ...]:
    """Questions on passages; one without answers has none in its passage."""
    asked = []
    for passage in json.loads((DIRECTORY / "questions.json").read_text()):
        for item in passage["questions"]:
            asked.append(Question(item["question"], passage["context"], (), tuple(item["answers"]), "fresh"))
    return tuple(asked)


def stories() -> tuple[babi.Question, ...]:
    """Questions on stories, of no task of bAbI's."""
    return tuple(
        babi.Question(0, "\n".join(told["sentences"]), tuple(told["sentences"]), question, answer)
        for told in json.loads((DIRECTORY / "stories.json").read_text())
        for question, answer in told["questions"]
    )


def translations() -> tuple[Translated, ...]:
    """Sentences to translate."""
    return tuple(Translated(kind, english, tuple(right)) for kind, english, *right in _rows("translations.tsv"))


def rewrites() -> tuple[tuple[str, str], ...]:
    """Texts, each after the style to rewrite it in."""
    return tuple((style, text) for style, text in _rows("rewrites.tsv"))


def requests() -> tuple[Request, ...]:
    """Requests to an assistant; their slots stand in brackets, each with its name."""
    return tuple(_request(intent, marked) for intent, marked in _rows("requests.tsv"))


def _request(intent: str, marked: str) -> Request:
    """`[tomorrow](timeRange)` is a slot, all else the text around it."""
    pieces, end = list[dict[str, str]](), 0
    for slot in _SLOT.finditer(marked):
        pieces += [{"text": marked[end : slot.start()]}, {"text": slot[1], "entity": slot[2]}]
        end = slot.end()
    return request_of(intent, [*pieces, {"text": marked[end:]}])


def _rows(name: str) -> Iterator[list[str]]:
    with (DIRECTORY / name).open(newline="") as file:
        yield from csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
