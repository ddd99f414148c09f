"""QAMR's questions on single sentences of Wikipedia and Wikinews, to answer and to find the sentence by.

Michael et al., "Crowdsourcing Question-Answer Meaning Representations" (2018). Its development and test sets, published
to test with, train here, but for a tenth of the documents, which validates; its training set is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.fetch import GitHub
from training.data.hashing import bucket
from training.data.questions import Question, Questions, split_by

DEVELOPMENT, TEST, SENTENCES = (
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
# How the Penn Treebank writes brackets and quotes; and what has no space before it.
_WRITTEN = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"', "`": "'"}
_AFTER = frozenset((",", ".", ":", ";", "?", "!", "%", ")", "]", "n't"))


@dataclass(frozen=True)
class Sentence:
    """A sentence as it is written, its document, and where each of its tokens begins and ends."""

    text: str
    document: str
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Retrieval:
    """Sentences, questions, and the number int64 [N] of the sentence that answers each."""

    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    answers: NDArray[np.int64]

    def found(self, scores: NDArray[np.floating], count: int) -> NDArray[np.bool_]:
        """Whether the right sentence is among the `count` best [N], by scores [N, sentences]."""
        better = scores > np.take_along_axis(scores, self.answers[:, None], axis=1)
        among: NDArray[np.bool_] = better.sum(axis=1) < count
        return among


def load() -> Questions:
    """Questions on a sentence, with its neighbours as context, fetched on first use (5 MB)."""
    sentences = load_sentences()
    documents: dict[str, list[str]] = {}
    for name, sentence in sentences.items():
        documents.setdefault(sentence.document, []).append(name)
    return split_by((on_sentence(line, sentences, documents) for line in _lines()), "group")


def load_retrieval() -> Retrieval:
    """The questions that validate an answerer, to be answered by any of all sentences: the test of a search."""
    return _retrieval({1}, set(range(10)))


def load_search() -> tuple[Retrieval, Retrieval]:
    """Questions to learn a search from, on a part of the other documents, and those of the rest, to validate it."""
    return _retrieval({0, *range(3, 10)}, {0, *range(3, 10)}), _retrieval({2}, {0, *range(2, 10)})


def _retrieval(asked: Set[int], searched: Set[int]) -> Retrieval:
    """The questions on documents of some buckets, to be answered by the sentences of those of others."""
    sentences = {n: one for n, one in load_sentences().items() if bucket(one.document, 10) in searched}
    numbers = {name: i for i, name in enumerate(sentences)}
    lines = [(fields[5].strip(), fields[0]) for fields in (line.split("\t") for line in _lines())]
    pairs = [(q, name) for q, name in lines if name in numbers and bucket(sentences[name].document, 10) in asked]
    return Retrieval(
        tuple(sentence.text for sentence in sentences.values()),
        tuple(question for question, _ in pairs),
        np.array([numbers[name] for _, name in pairs]),
    )


def retrieval_of(asked: Sequence[Question]) -> Retrieval:
    """Questions, to be answered by the contexts of all."""
    contexts = list(dict.fromkeys(question.context for question in asked))
    numbers = np.array([contexts.index(question.context) for question in asked])
    return Retrieval(tuple(contexts), tuple(question.question for question in asked), numbers)


def load_sentences() -> dict[str, Sentence]:
    """Every sentence by its name."""
    rows = (SENTENCES.fetch() / Path(SENTENCES.name).name).read_text().splitlines()
    return {name: written(name, text.split()) for name, text in (row.split("\t") for row in rows)}


def _lines() -> list[str]:
    return [
        line
        for source in (DEVELOPMENT, TEST)
        for line in (source.fetch() / Path(source.name).name).read_text().splitlines()
    ]


def written(name: str, tokens: Sequence[str]) -> Sentence:
    """A sentence of tokens as people write it."""
    text, places = "", []
    for token in tokens:
        token = _WRITTEN.get(token, token)
        close = not text or token in _AFTER or token.startswith("'") or text[-1] in "(["
        text += "" if close else " "
        places.append((len(text), len(text) + len(token)))
        text += token
    return Sentence(text, name.rsplit(":", 2)[0], tuple(places))


def on_sentence(line: str, sentences: Mapping[str, Sentence], documents: Mapping[str, Sequence[str]]) -> Question:
    """The question of a line: its sentence, words, worker and so on, the question and its answer's tokens."""
    name, _, _, _, _, asked, tokens, *_ = line.split("\t")
    sentence = sentences[name]
    others = [other for other in documents[sentence.document] if other != name]
    # None, one or two sentences before it and after it, the same for every question on it.
    before, after = (bucket(f"{name} {side}", min(3, len(others) // 2 + 1)) for side in ("before", "after"))
    first = bucket(f"{name} place", max(1, len(others) - before - after))
    chosen = [sentences[other].text for other in others[first : first + before + after]]
    context = " ".join((*chosen[:before], sentence.text, *chosen[before:]))
    shift = sum(len(text) + 1 for text in chosen[:before])
    numbers = [int(token) for token in tokens.split()]
    start, end = shift + sentence.places[min(numbers)][0], shift + sentence.places[max(numbers)][1]
    return Question(asked.strip(), context, ((start, end),), (context[start:end],), sentence.document)
