"""Texts as what is explained: their words, and what a model says when some of them are unknown."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.card import Explanation, TextPreprocessing
from artifacts.windows import UNK, Windows, best_spans, question_windows, text_windows
from lectern.v1 import explain_pb2 as pb
from services.codecs.text import Tokens, check_text, encode, load_tokenizer, whole_characters
from services.errors import InvalidArgument
from services.explain.methods.asking import Floats
from services.explain.methods.attention import attention_by_word, mean_attention
from services.explain.network import Answer, Network
from services.explain.subject import Request, Subject, check_kind, read_target
from services.limits import Limits
from services.rpc import Call
from services.runtime.graph import Graph
from services.runtime.repository import Model
from services.runtime.token_windows import mean_vectors, read, stages

ANSWERS = "answer"  # capability of models that take a question beside the text
TEXT, QUESTION = "input.text.text", "input.text.question"
STOPS = frozenset(".!?。！？")
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

    @property
    def sentences(self) -> list[slice]:
        """The words of each sentence, those of the question first."""
        asked = sum(word.in_question for word in self.words)
        ends = {i for i, word in enumerate(self.words, 1) if word.text in STOPS} | {asked, len(self.words)}
        return [slice(start, end) for start, end in itertools.pairwise(sorted(ends | {0}))]

    def spread(self, values: Floats) -> Floats:
        return values


@dataclass(frozen=True)
class _Words:
    """Tokens of a text, and of each the place of its word."""

    ids: NDArray[np.int64]
    words: NDArray[np.int64]

    def masked(self, xs: Floats) -> list[list[int]]:
        """Ids of the tokens for inputs `[N, words]`: a word of which less than half is there is unknown."""
        rows: list[list[int]] = np.where(xs[:, self.words] < 0.5, UNK, self.ids).tolist()
        return rows


async def read_text(
    request: Request, model: Model, preprocessing: TextPreprocessing, call: Call, limits: Limits
) -> Subject:
    """The text and target of a request, with the model's answer.

    Raises:
        InvalidArgument: the model takes no text, or a question; or the text, its question or the target is bad.
    """
    check_kind(request, "text", model.card)
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
    attention = _attention_of_all(model, preprocessing, tokens[0], call)
    kind = TextKind(given.text, "", words, attention if _attends(model.graphs["encoder"]) else None)
    answer = _classifier(model, preprocessing, tokens[0], call)
    network, labels = Network(model, call, answer, Explanation(output=LOGITS)), model.card.labels
    (outputs,) = await network.outputs(kind.x[None])
    return Subject(network, kind, labels, outputs, read_target(request, labels, outputs, model.card))


def _words(texts: dict[str, str], encodings: Sequence[Tokens]) -> tuple[tuple[pb.ExplainedWord, ...], list[_Words]]:
    """The words of all texts, and the tokens of each with their places among these."""
    words: list[pb.ExplainedWord] = []
    tokens = []
    for (field, text), one in zip(texts.items(), encodings, strict=True):
        places, before = [], -1
        for number, start, end in zip(one.words, one.starts, one.ends, strict=True):
            if number != before or number < 0:
                words.append(pb.ExplainedWord(start=start, in_question=field == QUESTION))
                before = number
            words[-1].end = end
            places.append(len(words) - 1)
        tokens.append(_Words(np.array(one.ids, np.int64), np.array(places)))
        for word in words[tokens[-1].words[0] :]:
            word.start, word.end = whole_characters(text, word.start, word.end)
            word.text = text[word.start : word.end]
    return tuple(words), tokens


def _classifier(model: Model, preprocessing: TextPreprocessing, tokens: _Words, call: Call) -> Answer:
    """Logits of classes for words that are there."""

    async def answer(xs: Floats) -> Floats:
        texts = [text_windows(row, preprocessing.max_tokens) for row in tokens.masked(xs)]
        vectors = await mean_vectors(texts, model.graphs["encoder"], call.deadline, call.priority)
        outputs = await model.graphs["forward"].infer({"mean_vector": vectors}, call.deadline, call.priority)
        return outputs[LOGITS]

    return answer


def _attention_of_all(
    model: Model, preprocessing: TextPreprocessing, tokens: _Words, call: Call
) -> Callable[[], Awaitable[Floats]]:
    """The share of the attention of all tokens of a text that each word gets."""

    async def attention() -> Floats:
        windows = text_windows(tokens.ids.tolist(), preprocessing.max_tokens)
        outputs = await read([windows], [model.graphs["encoder"]], [ATTENTION], call.deadline, call.priority)
        weights = np.zeros(len(tokens.ids), np.float32)
        looks = mean_attention(outputs[ATTENTION], windows.lengths)
        for row, first, size in zip(looks, windows.first, windows.sizes, strict=True):
            weights[first : first + size] = row[windows.before : windows.before + size]
        return attention_by_word(weights, tokens.words)

    return attention


async def _answered(
    request: Request,
    model: Model,
    preprocessing: TextPreprocessing,
    call: Call,
    words: tuple[pb.ExplainedWord, ...],
    tokens: Sequence[_Words],
    context: Tokens,
) -> Subject:
    """A question with its most probable answer, explained in the window that gave it."""
    given, size = request.input.text, preprocessing.max_tokens
    whole = question_windows(tokens[0].ids.tolist(), tokens[1].ids.tolist(), size)
    starts, ends = await _spans(model, [whole], call)
    (best, *_), _ = best_spans(starts, ends, whole, context.words, 1)
    inside = [first <= best.start and best.end < first + n for first, n in zip(whole.first, whole.sizes, strict=True)]
    places = [whole.before + np.array([best.start, best.end]) - first for first in whole.first]
    scores = [starts[i, a] + ends[i, b] if inside[i] else -np.inf for i, (a, b) in enumerate(places)]
    row = int(np.argmax(scores))
    first, last = places[row]

    async def answer(xs: Floats) -> Floats:
        pairs = zip(tokens[0].masked(xs), tokens[1].masked(xs), strict=True)
        windows = [_row(question_windows(question, text, size), row) for question, text in pairs]
        starts, ends = await _spans(model, windows, call)
        return np.asarray(starts[:, first] + ends[:, last] - starts[:, 0] - ends[:, 0])[:, None]

    async def attention() -> Floats:
        outputs = await read([_row(whole, row)], [model.graphs["encoder"]], [ATTENTION], call.deadline, call.priority)
        looks = outputs[ATTENTION][0, [first, last]].mean(0)
        length, begin = len(tokens[0].ids), whole.first[row]
        part = slice(begin, begin + whole.sizes[row])
        weights = np.concatenate([looks[1 : 1 + length], looks[whole.before : whole.before + whole.sizes[row]]])
        return attention_by_word(weights, np.concatenate([tokens[0].words, tokens[1].words[part]]), len(words))

    start, end = whole_characters(given.text, context.starts[best.start], context.ends[best.end])
    exported = attention if _attends(model.graphs["encoder"]) else None
    kind = TextKind(given.text, given.question, words, exported, (start, end))
    network, labels = Network(model, call, answer, Explanation(output=STARTS)), (given.text[start:end],)
    (outputs,) = await network.outputs(kind.x[None])
    return Subject(network, kind, labels, outputs, read_target(request, labels, outputs, model.card))


async def _spans(model: Model, windows: Sequence[Windows], call: Call) -> tuple[Floats, Floats]:
    """Logits `[N, T]` of an answer's first and last token, for all windows."""
    outputs = await read(windows, stages(model), [STARTS, ENDS], call.deadline, call.priority)
    return outputs[STARTS], outputs[ENDS]


def _attends(graph: Graph) -> bool:
    """Whether it gives its attention."""
    return any(output.name == ATTENTION for output in graph.config.outputs)


def _row(windows: Windows, row: int) -> Windows:
    """One window of several."""
    part = slice(row, row + 1)
    return Windows(windows.ids[part], windows.segments[part], windows.first[part], windows.before, windows.sizes[part])
