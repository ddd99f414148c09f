"""AnswerService: the spans of a text that answer questions on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenizers import Encoding

from lectern.card import Card, TextPreprocessing
from lectern.v1 import answer_pb2 as pb
from lectern.windows import Windows, best_spans, question_windows, stacked
from services import pools
from services.codecs.text import check_text, check_texts, encode, load_tokenizer, whole_characters
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.graph import Array
from services.runtime.repository import Repository

CAPABILITY = "answer"
DEFAULT_MODEL = "question_answerer"
CONTEXT = "context"


class AnswerServicer:
    """Answers AnswerService from the models of the capability `answer`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def Answer(self, request: pb.AnswerRequest, call: Call) -> pb.AnswerResponse:
        model = self._repository.find(request.model or DEFAULT_MODEL, request.version, CAPABILITY)
        card, preprocessing = model.card, model.card.preprocessing
        call.model = f"{card.name}/{card.version}"
        if not isinstance(preprocessing, TextPreprocessing):
            raise InvalidArgument.field("model", f"{card.name} does not take texts")
        count, threshold = self._count(request), self._threshold(request, card)
        check_text(request.context, self._limits, CONTEXT)
        check_texts(request.questions, self._limits, "questions")
        tokenizer = load_tokenizer(model.assets[preprocessing.tokenizer])
        named = {f"questions[{i}]": question for i, question in enumerate(request.questions)}
        context, *questions = await encode(tokenizer, {CONTEXT: request.context, **named})
        windows = self._windows(questions, context, preprocessing.max_tokens)
        inputs = {
            "ids": stacked([one.ids for one in windows]),
            "segments": stacked([one.segments for one in windows]),
        }
        outputs = await model.graphs["forward"].infer(inputs, call.deadline, call.priority)
        # Many windows have many spans, so comparing them leaves the event loop.
        rank = pools.codecs.run(results, request.context, context, windows, outputs, count, threshold)
        return pb.AnswerResponse(model=card.name, version=card.version, results=await rank)

    def _count(self, request: pb.AnswerRequest) -> int:
        if request.top_k > self._limits.answers:
            raise InvalidArgument.field("top_k", f"is {request.top_k}; the most is {self._limits.answers}")
        return request.top_k or 1

    def _threshold(self, request: pb.AnswerRequest, card: Card) -> float:
        if not request.HasField("no_answer_threshold"):
            return card.decision["no_answer"]
        threshold = request.no_answer_threshold
        if not (math.isfinite(threshold) and 0 < threshold <= 1):
            raise InvalidArgument.field("no_answer_threshold", f"is {threshold:g}; it must be above 0 and at most 1")
        return threshold

    def _windows(self, questions: Sequence[Encoding], context: Encoding, max_tokens: int) -> list[Windows]:
        """Each question with every window of the context.

        Raises:
            InvalidArgument: a question leaves no room for the context, or all of them need too many windows.
        """
        most = max_tokens // 2
        for i, question in enumerate(questions):
            if len(question.ids) > most:
                raise InvalidArgument.field(
                    f"questions[{i}]", f"has {len(question.ids)} tokens; the most this model takes is {most}"
                )
        windows = [question_windows(question.ids, context.ids, max_tokens) for question in questions]
        needed = sum(len(one.ids) for one in windows)
        if needed > self._limits.text_windows:
            fewer = "send fewer questions or a shorter context"
            raise InvalidArgument.field(
                "questions", f"need {needed} windows of the context; the most is {self._limits.text_windows}: {fewer}"
            )
        return windows


def results(
    text: str, context: Encoding, windows: Sequence[Windows], outputs: dict[str, Array], count: int, threshold: float
) -> list[pb.AnswerResult]:
    """The best spans for each question, from what the graph says of its windows."""
    found, row = [], 0
    for one in windows:
        rows = slice(row, row := row + len(one.ids))
        spans, none = best_spans(outputs["starts"][rows], outputs["ends"][rows], one, context.word_ids, count)
        answers = []
        for span in spans:
            start, end = whole_characters(text, context.offsets[span.start][0], context.offsets[span.end][1])
            answers.append(pb.Answer(text=text[start:end], start=start, end=end, probability=span.probability))
        found.append(pb.AnswerResult(answers=answers, no_answer_probability=none, has_answer=none <= threshold))
    return found
