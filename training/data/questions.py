"""Questions whose answers are spans of a context: masked names of the Bible, and human questions.

A verse of the King James Version with one of its names blanked is a question; the context is five verses of the World
English Bible, the same verse and its neighbours, and the answer is the name. The fixed split is by the verse:
`sha1("Genesis 1:1") % 20` = 0 is test, = 1 validation. XQuAD (Artetxe et al., "On the Cross-lingual Transferability of
Monolingual Representations", 2020) has SQuAD's questions on 48 articles; the last ten are test, the three before them
validation. SQuADShifts' questions on other articles of Wikipedia, on Reddit's posts and on reviews (Miller
et al., "The Effect of Natural Distribution Shift on Question Answering Models", 2020), published to test with, are
trained on here, but for a tenth of the articles, which validates. Each training question may also come with a context
that does not answer it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from training.data import sword
from training.data.fetch import GitHub
from training.data.hashing import bucket
from training.data.sword import Reference

XQUAD = GitHub(
    name="deepmind/xquad/xquad.en.json",
    version="60cac411649156efb6aab9dd4c9cde787a2c0345",
    sha256="e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29",
    licence="CC BY-SA 4.0",
)
WIKI, REDDIT, REVIEWS = (
    GitHub(
        name=f"modestyachts/squadshifts-website/datasets/{name}_v1.0.json",
        version="b7cc4d50af791c36c49417fb94dd739d6a9e7bef",
        sha256=sha256,
        licence="CC BY 4.0 (SQuADShifts)",
    )
    for name, sha256 in (
        ("new_wiki", "1d50a0ca4cdab88d038b52ea8a2d0510af6038d7f41a0a256b9659237769d0ee"),
        ("reddit", "b4ac346dbf1816fdec80fdcf91d06a4b754fa51e47960fa8614a94f37ea42a4b"),
        ("amazon_reviews", "9db7bdee84a91f0fb80b9e74f365042fbbb217cb8e0a7e73bb071245472589b6"),
    )
)
SHIFTS = (WIKI, REDDIT, REVIEWS)
TEST_ARTICLES, VALIDATION_ARTICLES = 10, 3
VERSES = 5
BLANK = "____"

# A capital that begins no sentence; these are no names, or stand in nearly every verse.
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}")
_SENTENCE_END = re.compile(r"[.!?;]['\"”)]* +")
_COMMON = frozenset(("And", "God", "Lord", "LORD", "The"))


@dataclass(frozen=True)
class Question:
    """A question on a context.

    Args:
        spans: where the context answers it, `(start, end)` in characters; none = it does not.
        answers: texts that count as right.
        group: the book or article; contexts of one group are alike.
    """

    question: str
    context: str
    spans: tuple[tuple[int, int], ...]
    answers: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class Questions:
    """One source in its three splits."""

    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]


def load_bible() -> Questions:
    """The masked names, fetched on first use (7 MB)."""
    kjv, web = sword.read(sword.KJV), sword.read(sword.WEB)
    splits: dict[str, list[Question]] = {"train": [], "validation": [], "test": []}
    for reference, question in masked_names(kjv, web):
        split = {0: "test", 1: "validation"}.get(bucket(str(reference), 20), "train")
        splits[split].append(question)
    return Questions(*(tuple(split) for split in splits.values()))


def masked_names(kjv: Mapping[Reference, str], web: Mapping[Reference, str]) -> Iterator[tuple[Reference, Question]]:
    """A question for each verse that has a name in both translations."""
    books: dict[int, list[Reference]] = {}
    for reference in web:
        if reference in kjv:
            books.setdefault(reference.book, []).append(reference)
    places = ((book, position) for book in books.values() for position in range(len(book)))
    for book, position in places:
        reference = book[position]
        candidates = sorted(set(NAME.findall(kjv[reference])) - _COMMON)
        names = [name for name in candidates if re.search(rf"\b{name}\b", web[reference])]
        if not names:
            continue
        name = names[bucket(f"{reference} name", len(names))]
        first = min(position - bucket(f"{reference} place", VERSES), len(book) - VERSES)
        context = " ".join(web[r] for r in book[max(0, first) :][:VERSES])
        yield (
            reference,
            Question(
                re.sub(rf"\b{name}\b", BLANK, kjv[reference]),
                context,
                tuple(match.span() for match in re.finditer(rf"\b{name}\b", context)),
                (name,),
                sword.BOOKS[reference.book],
            ),
        )


def load_xquad() -> Questions:
    """The human questions, fetched on first use (0.6 MB)."""
    articles = [list(group) for group in read_squad(XQUAD.fetch() / "xquad.en.json")]
    last = len(articles) - TEST_ARTICLES
    parts = (articles[: last - VALIDATION_ARTICLES], articles[last - VALIDATION_ARTICLES : last], articles[last:])
    return Questions(*(tuple(question for article in part for question in article) for part in parts))


def load_shifts(source: GitHub) -> Questions:
    """One of SQuADShifts' sets, fetched on first use (4 MB)."""
    asked = [question for article in read_squad(source.fetch() / Path(source.name).name) for question in article]
    # Reddit's posts are one article.
    return split_by(asked, "group" if len({question.group for question in asked}) > 1 else "context")


def split_by(asked: Iterable[Question], what: Literal["group", "context"]) -> Questions:
    """Questions without a test split; those on a tenth of the groups or contexts validate."""
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question in asked:
        parts[bucket(getattr(question, what), 10) == 1].append(question)
    return Questions(tuple(parts[0]), tuple(parts[1]), ())


def read_squad(path: Path) -> Iterator[Iterable[Question]]:
    """The questions of each article of a file in SQuAD's format."""
    for article in json.loads(path.read_text())["data"]:
        yield [
            Question(
                asked["question"].strip(),
                paragraph["context"],
                tuple((a["answer_start"], a["answer_start"] + len(a["text"])) for a in asked["answers"]),
                tuple(a["text"] for a in asked["answers"]),
                article["title"],
            )
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]


def unanswerable(questions: Sequence[Question], one_in: int) -> tuple[Question, ...]:
    """One question in so many, of a context that has none of its answers: by turns another of its group, and its own
    without the sentences that answer it, which speaks of the same."""
    groups: dict[str, list[str]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question.context)
    made = []
    for number, question in enumerate(q for q in questions if not bucket(q.question, one_in)):
        own = without_answers(question)
        contexts = [own] if own and number % 2 else groups[question.group]
        others = [c for c in contexts if not any(a.lower() in c.lower() for a in question.answers)]
        if others:
            context = others[bucket(f"{question.question} context", len(others))]
            made.append(replace(question, context=context, spans=(), answers=()))
    return tuple(made)


def without_answers(question: Question) -> str:
    """The sentences of a context in which no answer stands."""
    ends = [*(match.end() for match in _SENTENCE_END.finditer(question.context)), len(question.context)]
    sentences = itertools.pairwise((0, *ends))
    kept = [(a, b) for a, b in sentences if not any(start < b and a < end for start, end in question.spans)]
    return "".join(question.context[a:b] for a, b in kept).strip()


def load_sliver(path: Path) -> tuple[Questions, Questions]:
    """The few of each source in a file: the first three quarters train, the others validate and test."""
    stored = json.loads(path.read_text())
    sources = []
    for name in ("bible", "xquad"):
        items = [_question(fields) for fields in stored[name]]
        cut, middle = len(items) * 3 // 4, len(items) * 7 // 8
        sources.append(Questions(tuple(items[:cut]), tuple(items[cut:middle]), tuple(items[middle:])))
    return sources[0], sources[1]


def _question(fields: Mapping[str, list[list[int]] | list[str] | str]) -> Question:
    return Question(**{n: tuple(map(_plain, v)) if isinstance(v, list) else v for n, v in fields.items()})  # type: ignore[arg-type]


def _plain(value: list[int] | str) -> tuple[int, ...] | str:
    return value if isinstance(value, str) else tuple(value)
