"""The English Web Treebank of Universal Dependencies: blogs, news groups, mails, reviews and answers.

Silveira et al., "A Gold Standard Dependency Corpus for English" (2014). Of its development set, which trains here, a
tenth of the documents validates.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.fetch import GitHub
from training.data.hashing import bucket
from training.data.tags import Slot, tags_for

SOURCE, TEST = (
    GitHub(
        name=f"UniversalDependencies/UD_English-EWT/{name}",
        version="15d613d8447b3478787d4c278730a1e48a945efb",
        sha256=sha256,
        licence="CC BY-SA 4.0",
    )
    for name, sha256 in (
        ("en_ewt-ud-dev.conllu", "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6"),
        ("en_ewt-ud-test.conllu", "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd"),
    )
)
# Of Universal Dependencies, version 2.
PARTS_OF_SPEECH = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
PART_TAGS = tags_for(PARTS_OF_SPEECH)
_DOCUMENT, _TEXT = "# newdoc id = ", "# text = "


@dataclass(frozen=True)
class Sentence:
    """A sentence and its words, in order, each with its part of speech."""

    text: str
    words: tuple[Slot, ...]


@dataclass(frozen=True)
class Treebank:
    """Sentences in their three splits."""

    train: tuple[Sentence, ...]
    validation: tuple[Sentence, ...]
    test: tuple[Sentence, ...]


def load() -> Treebank:
    """Sentences with parts of speech, fetched on first use (4 MB)."""
    parts: tuple[list[Sentence], list[Sentence]] = ([], [])
    for name, sentences in _documents(SOURCE):
        parts[bucket(name, 10) == 1].extend(sentences)
    test = (sentence for _, sentences in _documents(TEST) for sentence in sentences)
    return Treebank(tuple(parts[0]), tuple(parts[1]), tuple(test))


def load_sliver(path: Path) -> Treebank:
    """A committed sliver of training sentences, split 80/10/10 in turns."""
    sentences = tuple(
        Sentence(text, tuple(Slot(*word) for word in words)) for text, words in json.loads(path.read_text())
    )
    return Treebank(
        tuple(sentence for i, sentence in enumerate(sentences) if i % 10 > 1), sentences[1::10], sentences[::10]
    )


def documents() -> Iterator[tuple[str, str]]:
    """The kind of each document of the development set, such as `email`, and its text, fetched on first use (2 MB)."""
    for name, sentences in _documents(SOURCE):
        yield name.partition("-")[0], " ".join(sentence.text for sentence in sentences)


def _documents(source: GitHub) -> Iterator[tuple[str, list[Sentence]]]:
    """The name of each document and its sentences."""
    lines = (source.fetch() / Path(source.name).name).read_text().splitlines()
    name, sentences = "", list[Sentence]()
    for filled, block in itertools.groupby(lines, bool):
        if not filled:
            continue
        rows = list(block)
        if begun := next((row for row in rows if row.startswith(_DOCUMENT)), None):
            if sentences:
                yield name, sentences
            name, sentences = begun.removeprefix(_DOCUMENT), []
        sentences.append(sentence_of(rows))
    yield name, sentences


def sentence_of(rows: Iterable[str]) -> Sentence:
    """The sentence of a block in the format CoNLL-U. Words stand one after the other in its text, but for a few that
    are written as one with others and changed by that, such as "cannot"'s: those are left out."""
    text, words, end = "", list[Slot](), 0
    for row in rows:
        if row.startswith(_TEXT):
            text = row.removeprefix(_TEXT)
        number, _, rest = row.partition("\t")
        if number.isdecimal():
            form, _, part, *_ = rest.split("\t")
            start = text.find(form, end)
            if start >= 0 and not text[end:start].strip():
                end = start + len(form)
                words.append(Slot(part, start, end))
    return Sentence(text, tuple(words))
