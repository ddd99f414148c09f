"""Texts as what is explained: which words there are, and what a model says when some of them are unknown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from lectern.card import Explanation, TextPreprocessing
from lectern.v1 import explain_pb2 as pb
from lectern.windows import UNK, Windows, best_spans, question_windows, stacked, text_windows
from services.codecs.embeddings import mean_vectors
from services.codecs.text import check_text, encode, load_tokenizer, whole_characters
from services.errors import InvalidArgument
from services.explain.subjects import Answer, Floats, Subject, check_kind, read_target
from services.limits import Limits
from services.rpc import Call
from services.runtime.graph import Graph
from services.runtime.repository import Model

ANSWERS = "answer"  # capability of models that take a question beside the text
TEXT, QUESTION = "input.text.text", "input.text.question"
LOGITS, STARTS, ENDS, ATTENTION = "logits", "starts", "ends", "attention"


@dataclass(frozen=True)
class TextKind:
    """A text, after its question if it has one: x is 1 for each word that is there, `[words]`.

    Args:
        attention: gives the share of the last layer's attention that each word gets, `[words]`; None if the model was
            exported without.
        answer: tokens of the text, the last inclusive, that are the explained answer; None if that is a class.
    """

    text: str
    question: str
    words: tuple[pb.ExplainedWord, ...]
    attention: Callable[[], Awaitable[Floats]] | None
    answer: tuple[int, int] | None = None

    @property
    def x(self) -> Floats:
        return np.ones(len(self.words), np.float32)

    @property
    def pixels(self) -> tuple[int, ...]:
        return (len(self.words),)

    @property
    def noise_scale(self) -> Floats:
        return np.ones((), np.float32)

    def baseline(self, given: int, default: int) -> Floats:
        if given:
            raise ValueError("is for images and audio; words are replaced by unknown tokens")
        return np.zeros(len(self.words), np.float32)

    def groups(self, cells: int) -> NDArray[np.int64]:
        return np.arange(len(self.words))

    def windows(self, size: int, stride: int) -> list[tuple[slice, ...]]:
        return [(slice(i, i + 1),) for i in range(len(self.words))]

    def spread(self, values: Floats) -> Floats:
        return values


@dataclass(frozen=True)
class _Tokens:
    """Tokens of a text, and of each the place of its word."""

    ids: NDArray[np.int64]
    words: NDArray[np.int64]

    def masked(self, xs: Floats) -> list[list[int]]:
        """Ids of the tokens for inputs `[N, words]`: a word of which less than half is there is unknown."""
        rows: list[list[int]] = np.where(xs[:, self.words] < 0.5, UNK, self.ids).tolist()
        return rows


async def read_text(
    request: pb.ExplainRequest | pb.CompareRequest,
    model: Model,
    preprocessing: TextPreprocessing,
    call: Call,
    limits: Limits,
) -> Subject:
    """The text and target of a request, with the model's answer.

    Raises:
        InvalidArgument: the model takes no text, or a question; or the text, its question or the target is bad.
    """
    check_kind(request.input.WhichOneof("kind"), "text", model.card)
    given, asks = request.input.text, model.card.capability == ANSWERS
    if given.question and not asks:
        raise InvalidArgument.field(QUESTION, f"is for models that answer questions; {model.card.name} does not")
    texts = ({QUESTION: given.question} if asks else {}) | {TEXT: given.text}
    for field, text in texts.items():
        check_text(text, limits, field)
    encodings = await encode(load_tokenizer(model.assets[preprocessing.tokenizer]), texts)
    most = {QUESTION: preprocessing.max_tokens // 2, TEXT: limits.explained_tokens}
    for field, encoding in zip(texts, encodings, strict=True):
        if (size := len(encoding.ids)) > most[field]:
            raise InvalidArgument.field(field, f"has {size} tokens; the most that are explained are {most[field]}")
    words, tokens = _words(texts, encodings)
    if asks:
        return await _answered(request, model, preprocessing, call, words, tokens, encodings[1])
    attention = _attended(model, preprocessing, tokens[0], call) if _attends(model.graphs["encoder"]) else None
    kind = TextKind(given.text, "", words, attention)
    answer = _classifier(model, preprocessing, tokens[0], call)
    outputs = (await answer(kind.x[None]))[0]
    labels = model.card.labels
    target = read_target(request, labels, outputs, model.card)
    return Subject(model, kind, call, answer, Explanation(output=LOGITS), labels, outputs, target)


def _words(texts: dict[str, str], encodings: Sequence[Encoding]) -> tuple[tuple[pb.ExplainedWord, ...], list[_Tokens]]:
    """The words of all texts, and the tokens of each with their places among these."""
    words: list[pb.ExplainedWord] = []
    tokens = []
    for (field, text), encoding in zip(texts.items(), encodings, strict=True):
        places, before = [], None
        for number, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
            if number != before or number is None:
                words.append(pb.ExplainedWord(start=start, in_question=field == QUESTION))
                before = number
            words[-1].end = end
            places.append(len(words) - 1)
        tokens.append(_Tokens(np.array(encoding.ids), np.array(places)))
        for word in words[tokens[-1].words[0] :]:
            word.start, word.end = whole_characters(text, word.start, word.end)
            word.text = text[word.start : word.end]
    return tuple(words), tokens


def _classifier(model: Model, preprocessing: TextPreprocessing, tokens: _Tokens, call: Call) -> Answer:
    """Logits of classes for words that are there."""

    async def answer(xs: Floats) -> Floats:
        texts = [text_windows(row, preprocessing.max_tokens) for row in tokens.masked(xs)]
        vectors = await mean_vectors(texts, model.graphs["encoder"], call.deadline, call.priority)
        outputs = await model.graphs["forward"].infer({"mean_vector": vectors}, call.deadline, call.priority)
        return outputs[LOGITS]

    return answer


def _attended(
    model: Model, preprocessing: TextPreprocessing, tokens: _Tokens, call: Call
) -> Callable[[], Awaitable[Floats]]:
    """What all tokens of a text look at."""

    async def attention() -> Floats:
        windows = text_windows(tokens.ids.tolist(), preprocessing.max_tokens)
        outputs = await _run(model.graphs["encoder"], [windows], call)
        weights = np.zeros(len(tokens.ids), np.float32)
        parts = zip(outputs[ATTENTION], windows.first, windows.sizes, windows.lengths, strict=True)
        for rows, first, size, length in parts:
            seen = rows[:length].sum(0) / windows.lengths.sum()
            weights[first : first + size] = seen[windows.before : windows.before + size]
        return _by_word(weights, tokens.words)

    return attention


def _by_word(weights: Floats, words: NDArray[np.int64], count: int = 0) -> Floats:
    """The sum of the tokens' weights `[tokens]` for each word."""
    return np.bincount(words, weights, count).astype(np.float32)


async def _answered(
    request: pb.ExplainRequest | pb.CompareRequest,
    model: Model,
    preprocessing: TextPreprocessing,
    call: Call,
    words: tuple[pb.ExplainedWord, ...],
    tokens: Sequence[_Tokens],
    context: Encoding,
) -> Subject:
    """A question with the most probable answer, explained in the window where that was found."""
    given, size = request.input.text, preprocessing.max_tokens
    whole = question_windows(tokens[0].ids.tolist(), tokens[1].ids.tolist(), size)
    starts, ends = await _spans(model, [whole], call)
    (best, *_), _ = best_spans(starts, ends, whole, context.word_ids, 1)
    inside = [first <= best.start and best.end < first + n for first, n in zip(whole.first, whole.sizes, strict=True)]
    places = [whole.before + np.array([best.start, best.end]) - first for first in whole.first]
    scores = [starts[i, a] + ends[i, b] if inside[i] else -np.inf for i, (a, b) in enumerate(places)]
    row = int(np.argmax(scores))
    first, last = places[row]

    async def answer(xs: Floats) -> Floats:
        pairs = zip(tokens[0].masked(xs), tokens[1].masked(xs), strict=True)
        found = [question_windows(question, text, size) for question, text in pairs]
        starts, ends = await _spans(model, [_row(one, row) for one in found], call)
        return np.asarray(starts[:, first] + ends[:, last] - starts[:, 0] - ends[:, 0])[:, None]

    async def attention() -> Floats:
        outputs = await _run(model.graphs["forward"], [_row(whole, row)], call)
        seen = outputs[ATTENTION][0, [first, last]].mean(0)
        asked, begin = len(tokens[0].ids), whole.first[row]
        read = slice(begin, begin + whole.sizes[row])
        weights = np.concatenate([seen[1 : 1 + asked], seen[whole.before : whole.before + whole.sizes[row]]])
        return _by_word(weights, np.concatenate([tokens[0].words, tokens[1].words[read]]), len(words))

    start, end = whole_characters(given.text, context.offsets[best.start][0], context.offsets[best.end][1])
    shown = attention if _attends(model.graphs["forward"]) else None
    kind = TextKind(given.text, given.question, words, shown, (start, end))
    labels, outputs = (given.text[start:end],), (await answer(kind.x[None]))[0]
    target = read_target(request, labels, outputs, model.card)
    return Subject(model, kind, call, answer, Explanation(output=STARTS), labels, outputs, target)


async def _spans(model: Model, found: Sequence[Windows], call: Call) -> tuple[Floats, Floats]:
    """Logits `[N, T]` of an answer's first and last token, for all windows."""
    outputs = await _run(model.graphs["forward"], found, call)
    return outputs[STARTS], outputs[ENDS]


def _attends(graph: Graph) -> bool:
    """Whether it gives its attention."""
    return any(output.name == ATTENTION for output in graph.config.outputs)


async def _run(graph: Graph, found: Sequence[Windows], call: Call) -> dict[str, NDArray[Any]]:
    inputs = {"ids": stacked([one.ids for one in found]), "segments": stacked([one.segments for one in found])}
    return await graph.infer(inputs, call.deadline, call.priority)


def _row(windows: Windows, row: int) -> Windows:
    """One window of several."""
    part = slice(row, row + 1)
    return Windows(windows.ids[part], windows.segments[part], windows.first[part], windows.before, windows.sizes[part])
