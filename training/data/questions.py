"""Questions whose answers are spans of a context: masked names of the Bible, and human questions.

A verse of the King James Version with one of its names blanked is a question; the context is five verses of the World
English Bible, the same verse and its neighbours, and the answer is the name. The fixed split is by the verse:
`sha1("Genesis 1:1") % 20` = 0 is test, = 1 validation. XQuAD (Artetxe et al., "On the Cross-lingual Transferability of
Monolingual Representations", 2020) has SQuAD's questions on 48 articles; the last ten are test, the three before them
validation. SQuADShifts' questions on other articles of Wikipedia (Miller et al., "The Effect of Natural Distribution
Shift on Question Answering Models", 2020) and QAMR's on single sentences (Michael et al., "Crowdsourcing
Question-Answer Meaning Representations", 2018), both published to test with, are trained on here, but for a tenth
of the articles, which validates. Each training question may also come with a context that does not answer it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
WIKI = GitHub(
    name="modestyachts/squadshifts-website/datasets/new_wiki_v1.0.json",
    version="b7cc4d50af791c36c49417fb94dd739d6a9e7bef",
    sha256="1d50a0ca4cdab88d038b52ea8a2d0510af6038d7f41a0a256b9659237769d0ee",
    licence="CC BY 4.0 (SQuADShifts)",
)
QAMR, QAMR_TEST, QAMR_SENTENCES = (
    GitHub(
        name=f"uwnlp/qamr/data/{name}",
        version="956b0eb2d5857f4aafa1af257ba06fa6cb683b99",
        sha256=sha256,
        licence="MIT",
    )
    for name, sha256 in (
        ("filtered/dev.tsv", "d507f22b1348324ad3d5c9208308e49e91d409222c080eb6d224a8ecab4bfb93"),
        ("filtered/test.tsv", "c065e2e28551ae2eb94994c928de18cfb6ae1425ec3ed975e45607265f54eff4"),
        ("wiki-sentences.tsv", "2e90fd8d8014ec2ade69148ff2187c26684366dbd3d6f8ad6bb6bf1ba1f04ea9"),
    )
)
TEST_ARTICLES, VALIDATION_ARTICLES = 10, 3
VERSES = 5
BLANK = "____"

# A capital that begins no sentence; these are no names, or stand in nearly every verse.
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}")
# How the Penn Treebank writes brackets and quotes; and what has no space before it.
_WRITTEN = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"', "`": "'"}
_AFTER = frozenset((",", ".", ":", ";", "?", "!", "%", ")", "]", "n't"))
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


def load_wiki() -> Questions:
    """SQuADShifts' questions on Wikipedia, fetched on first use (6 MB)."""
    return by_group(question for article in read_squad(WIKI.fetch() / Path(WIKI.name).name) for question in article)


def load_qamr() -> Questions:
    """Questions on a sentence, with its neighbours as context, fetched on first use (5 MB)."""
    rows = (QAMR_SENTENCES.fetch() / Path(QAMR_SENTENCES.name).name).read_text().splitlines()
    tokens = {name: text.split() for name, text in (row.split("\t") for row in rows)}
    documents: dict[str, list[str]] = {}
    for name in tokens:
        documents.setdefault(name.rsplit(":", 2)[0], []).append(name)
    files = (source.fetch() / Path(source.name).name for source in (QAMR, QAMR_TEST))
    return by_group(on_sentence(line, tokens, documents) for path in files for line in path.read_text().splitlines())


def by_group(asked: Iterable[Question]) -> Questions:
    """Questions without a test split; those of a tenth of the groups validate."""
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question in asked:
        parts[bucket(question.group, 10) == 1].append(question)
    return Questions(tuple(parts[0]), tuple(parts[1]), ())


def on_sentence(line: str, tokens: Mapping[str, Sequence[str]], documents: Mapping[str, Sequence[str]]) -> Question:
    """The question of a line: its sentence, words, worker and so on, the question and its answer's tokens."""
    name, _, _, _, _, asked, places, *_ = line.split("\t")
    document = name.rsplit(":", 2)[0]
    others = [other for other in documents[document] if other != name]
    # None, one or two sentences before it and after it, the same for every question on it.
    before, after = (bucket(f"{name} {side}", min(3, len(others) // 2 + 1)) for side in ("before", "after"))
    first = bucket(f"{name} place", max(1, len(others) - before - after))
    chosen = others[first : first + before + after]
    text, starts = "", [0]
    for part in (*chosen[:before], name, *chosen[before:]):
        if part == name:
            starts = [len(text)]
            for token in tokens[name]:
                text, place = _joined(text, _WRITTEN.get(token, token), len(starts) == 1)
                starts.append(place)
        else:
            for i, token in enumerate(tokens[part]):
                text, _ = _joined(text, _WRITTEN.get(token, token), i == 0)
    numbers = [int(place) for place in places.split()]
    begin, last = starts[min(numbers) + 1], max(numbers)
    end = starts[last + 1] + len(_WRITTEN.get(tokens[name][last], tokens[name][last]))
    return Question(asked.strip(), text, ((begin, end),), (text[begin:end],), document)


def _joined(text: str, token: str, first: bool) -> tuple[str, int]:
    """A text with a token more, as it is written; and where that begins."""
    close = not text or (not first and (token in _AFTER or token.startswith("'") or text[-1] in "(["))
    text += "" if close else " "
    return text + token, len(text)


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
    """One question in so many, each with another context of its group that has none of its answers."""
    groups: dict[str, list[str]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question.context)
    made = []
    for question in questions:
        if bucket(question.question, one_in):
            continue
        others = [c for c in groups[question.group] if not any(a.lower() in c.lower() for a in question.answers)]
        if others:
            context = others[bucket(f"{question.question} context", len(others))]
            made.append(replace(question, context=context, spans=(), answers=()))
    return tuple(made)


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
