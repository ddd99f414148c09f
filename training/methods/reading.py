"""What the text encoder learns from: examples of its tasks, in batches of like lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from artifacts.windows import CLS, SEP, padded
from training.data.entailment import Pairs
from training.data.labelled_texts import Split
from training.data.qamr import Retrieval
from training.data.questions import Question
from training.data.tags import IGNORED, tags_of
from training.data.web_treebank import Sentence

# Tasks; the last three have a class for each row.
QUESTION, TAGS, SENTENCE, SEARCH = "question", "part_of_speech", "sentence", "search"
ENTAILMENT, SENTIMENT, SPAM = "entailment", "sentiment", "spam"


@dataclass(frozen=True)
class Example:
    """One row and what is right of it.

    Args:
        answer: of a question, the tokens where the answer may start and those where it may end; of words to tag, the
            tag of each token or `IGNORED`; of a sentence, nothing; of a sentence to find, the ids of a question that it
            answers and its number; else a class.
    """

    task: str
    ids: Sequence[int]
    segments: Sequence[int]
    answer: Any


class Batch(NamedTuple):
    """Rows of one task. `answers` are bool [N, 2, T] of questions, int64 [N, T] of tags, else int64 [N].

    Of a search there are 2 N rows: N sentences, then a question to each.
    """

    task: str
    ids: Tensor
    segments: Tensor
    answers: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, segments and answers."""
        return self.ids, self.segments, self.answers


class Drawer(Protocol):
    """A data set that gives each of its examples once an epoch."""

    def draw(self, random: np.random.Generator) -> Iterator[Example]: ...


def span_loss(logits: Tensor, answers: Tensor, segments: Tensor) -> Tensor:
    """How improbable the right tokens are together, among those of the context and [CLS].

    Args:
        logits: [N, T].
        answers: bool [N, T].
    """
    readable = segments.bool()
    readable[:, 0] = True  # [CLS], which stands for "no answer"
    logits = logits.float().masked_fill(~readable, -torch.inf)
    return (logits.logsumexp(1) - logits.masked_fill(~answers, -torch.inf).logsumexp(1)).mean()


class QuestionExamples:
    """Questions as rows of at most `window` tokens; where a context is longer, another part of it each time."""

    def __init__(self, tokenizer: Tokenizer, questions: Sequence[Question], window: int) -> None:
        self._questions, self._window = questions, window
        self._asked = tokenizer.encode_batch([q.question for q in questions], add_special_tokens=False)
        self._contexts = tokenizer.encode_batch([q.context for q in questions], add_special_tokens=False)

    def draw(self, random: np.random.Generator) -> Iterator[Example]:
        """Each question once."""
        for question, asked, context in zip(self._questions, self._asked, self._contexts, strict=True):
            prefix = [CLS, *asked.ids[: self._window // 2], SEP]
            size = self._window - len(prefix) - 1
            spans = token_spans(question, context)
            first = self._first(spans, len(context.ids), size, random)
            ids = [*prefix, *context.ids[first : first + size], SEP]
            kept = [(start, end) for start, end in spans if first <= start and end < first + size]
            shift = len(prefix) - first
            starts, ends = [s + shift for s, _ in kept] or [0], [e + shift for _, e in kept] or [0]
            yield Example(QUESTION, ids, [0] * len(prefix) + [1] * (len(ids) - len(prefix)), (starts, ends))

    def _first(self, spans: Sequence[tuple[int, int]], length: int, size: int, random: np.random.Generator) -> int:
        """Where the part begins: anywhere, but so that it holds one of the answers if there is any."""
        lowest, highest = 0, max(0, length - size)
        if spans and highest:
            start, end = spans[int(random.integers(len(spans)))]
            lowest, highest = max(0, end - size + 1), min(start, highest)
        return int(random.integers(min(lowest, highest), highest + 1))


class TextExamples:
    """Labelled texts as rows of at most `window` tokens, another part of a long one each time."""

    def __init__(self, task: str, tokenizer: Tokenizer, split: Split, window: int, characters: int) -> None:
        self._task, self._labels, self._size = task, split.labels.tolist(), window - 2
        self._texts = tokenizer.encode_batch([text[:characters] for text in split.texts], add_special_tokens=False)

    def draw(self, random: np.random.Generator) -> Iterator[Example]:
        """Each text once."""
        for text, label in zip(self._texts, self._labels, strict=True):
            first = int(random.integers(max(1, len(text.ids) - self._size + 1)))
            ids = [CLS, *text.ids[first : first + self._size], SEP]
            yield Example(self._task, ids, [0] * len(ids), label)


class PairExamples:
    """Pairs of sentences as rows, each with its class."""

    def __init__(self, task: str, tokenizer: Tokenizer, pairs: Pairs, window: int) -> None:
        self._task, self._labels, self._room = task, pairs.labels.tolist(), (window - 3) // 2
        self._premises = tokenizer.encode_batch(list(pairs.premises), add_special_tokens=False)
        self._hypotheses = tokenizer.encode_batch(list(pairs.hypotheses), add_special_tokens=False)

    def draw(self, random: np.random.Generator) -> Iterator[Example]:
        """Each pair once."""
        for premise, hypothesis, label in zip(self._premises, self._hypotheses, self._labels, strict=True):
            first = [CLS, *premise.ids[: self._room], SEP]
            second = [*hypothesis.ids[: self._room], SEP]
            yield Example(self._task, first + second, [0] * len(first) + [1] * len(second), label)


class TagExamples:
    """Sentences as rows of at most `window` tokens, with a tag for the first token of each word."""

    def __init__(self, tokenizer: Tokenizer, sentences: Sequence[Sentence], tags: Sequence[str], window: int) -> None:
        numbers = {tag: i for i, tag in enumerate(tags)}
        encodings = tokenizer.encode_batch([one.text for one in sentences], add_special_tokens=False)
        self._rows = []
        for sentence, encoding in zip(sentences, encodings, strict=True):
            found = [numbers.get(tag, IGNORED) for tag in tags_of(sentence.words, encoding)]
            self._rows.append((encoding.ids[: window - 2], found[: window - 2]))

    def draw(self, random: np.random.Generator) -> Iterator[Example]:
        """Each sentence once."""
        for ids, tags in self._rows:
            yield Example(TAGS, [CLS, *ids, SEP], [0] * (len(ids) + 2), [IGNORED, *tags, IGNORED])


class SentenceExamples:
    """Sentences as rows of at most `window` tokens."""

    def __init__(self, tokenizer: Tokenizer, sentences: Sequence[str], window: int) -> None:
        encodings = tokenizer.encode_batch(list(sentences), add_special_tokens=False)
        self._rows = [[CLS, *encoding.ids[: window - 2], SEP] for encoding in encodings]

    def draw(self, random: np.random.Generator) -> Iterator[Example]:
        """Each sentence once."""
        for ids in self._rows:
            yield Example(SENTENCE, ids, [0] * len(ids), 0)


class SearchExamples:
    """Sentences as rows of at most `window` tokens, each with a question that it answers."""

    def __init__(self, tokenizer: Tokenizer, search: Retrieval, window: int) -> None:
        def rows(texts: Sequence[str]) -> list[list[int]]:
            encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
            return [[CLS, *encoding.ids[: window - 2], SEP] for encoding in encodings]

        self._sentences, self._questions = rows(search.sentences), rows(search.questions)
        self._answers = search.answers.tolist()

    def draw(self, random: np.random.Generator) -> Iterator[Example]:
        """Each question once."""
        for question, number in zip(self._questions, self._answers, strict=True):
            ids = self._sentences[number]
            yield Example(SEARCH, ids, [0] * len(ids), (question, number))


@dataclass(frozen=True)
class Some:
    """A share of a data set's examples, others each time."""

    drawer: Drawer
    share: float

    def draw(self, random: np.random.Generator) -> Iterator[Example]:
        """Each example with the probability `share`."""
        return (example for example in self.drawer.draw(random) if random.random() < self.share)


def token_spans(question: Question, context: Encoding) -> list[tuple[int, int]]:
    """The first and the last token of each answer that the context has."""
    spans = []
    for start, end in question.spans:
        inside = [i for i, (a, b) in enumerate(context.offsets) if a < end and b > start]
        if inside:
            spans.append((inside[0], inside[-1]))
    return spans


def batches(examples: Sequence[Example], tokens: int, random: np.random.Generator) -> list[Batch]:
    """All examples in batches of one task each and of at most `tokens`, padding included, in random order."""
    made = []
    for task in sorted({example.task for example in examples}):
        own = [example for example in examples if example.task == task]
        # Not quite by length, so that the company changes from epoch to epoch.
        order = np.argsort([len(example.ids) for example in own] + random.uniform(0, 8, len(own)))
        group: list[Example] = []
        for example in (own[i] for i in order[::-1]):
            width = max(len(example.ids), len(group[0].ids) if group else 0)
            if group and (len(group) + 1) * width > tokens:
                made.append(batch_of(group))
                group = []
            group.append(example)
        made.append(batch_of(group))
    return [made[i] for i in random.permutation(len(made))]


def batch_of(examples: Sequence[Example]) -> Batch:
    """Examples of one task, padded."""
    if examples[0].task == SEARCH:
        return search_batch_of(examples)
    ids, segments = (
        torch.from_numpy(padded(rows)) for rows in zip(*((e.ids, e.segments) for e in examples), strict=True)
    )
    task = examples[0].task
    if task == TAGS:
        tags = torch.full(ids.shape, IGNORED)
        for row, example in zip(tags, examples, strict=True):
            row[: len(example.answer)] = torch.tensor(example.answer)
        return Batch(task, ids, segments, tags)
    if task != QUESTION:
        return Batch(task, ids, segments, torch.tensor([example.answer for example in examples]))
    answers = torch.zeros(len(examples), 2, ids.shape[1], dtype=torch.bool)
    for row, example in zip(answers, examples, strict=True):
        for part, places in zip(row, example.answer, strict=True):
            part[list(places)] = True
    return Batch(task, ids, segments, answers)


def search_batch_of(examples: Sequence[Example]) -> Batch:
    """Sentences and questions, padded."""
    questions, numbers = zip(*(example.answer for example in examples), strict=True)
    ids = torch.from_numpy(padded([*(example.ids for example in examples), *questions]))
    return Batch(SEARCH, ids, torch.zeros_like(ids), torch.tensor(numbers))
