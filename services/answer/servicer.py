"""AnswerService: the spans of a text that answer questions on it, and answers about stories."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel

from artifacts.card import Card, StoryPreprocessing, TextPreprocessing
from artifacts.stories import STAND_INS
from artifacts.windows import Windows, best_spans, question_windows
from lectern.v1 import answer_pb2 as pb
from services import notices, pools
from services.answer import CAPABILITY, stories
from services.answering import answering
from services.codecs.language import not_english_each
from services.codecs.text import Tokens, check_text, check_texts, encode, load_tokenizer, whole_characters
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.graph import Array
from services.runtime.repository import Repository
from services.runtime.token_windows import read, stages

CONTEXT = "context"
RPCS: dict[type[BaseModel], str] = {TextPreprocessing: "Answer", StoryPreprocessing: "AnswerStory"}


class AnswerServicer:
    """Answers AnswerService from the models of the capability `answer`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def Answer(self, request: pb.AnswerRequest, call: Call) -> pb.AnswerResponse:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, TextPreprocessing, rpcs=RPCS)
        count, threshold = self._count(request.top_k), self._threshold(request, model.card)
        check_text(request.context, self._limits, CONTEXT)
        check_texts(request.questions, self._limits, "questions")
        tokenizer = load_tokenizer(model.assets[preprocessing.tokenizer])
        named = {f"questions[{i}]": question for i, question in enumerate(request.questions)}
        context, *questions = await encode(tokenizer, {CONTEXT: request.context, **named})
        windows = self._windows(questions, context, preprocessing.max_tokens)
        outputs = await read(windows, stages(model), ["starts", "ends"], call.deadline, call.priority)
        # Many windows have many spans, so comparing them leaves the event loop.
        rank = pools.codecs.run(results, request.context, context, windows, outputs, count, threshold)
        return pb.AnswerResponse(model=model.card.name, version=model.card.version, results=await rank)

    async def AnswerStory(self, request: pb.AnswerStoryRequest, call: Call) -> pb.AnswerStoryResponse:
        model, kind = answering(self._repository, call, request, CAPABILITY, StoryPreprocessing, rpcs=RPCS)
        card, count = model.card, self._count(request.top_k)
        tokenizer, told = model.assets[kind.tokenizer], len(request.sentences)
        story = await stories.read(request.sentences, request.question, kind, tokenizer, self._limits)
        inputs = {"sentences": story.sentences[None], "question": story.question[None]}
        outputs = await model.graphs["forward"].infer(inputs, call.deadline, call.priority)
        answers = stories.answers(story, outputs["logits"][0], card.labels)
        (looks,) = await not_english_each([" ".join((*request.sentences[-kind.max_sentences :], request.question))])
        return pb.AnswerStoryResponse(
            model=card.name,
            version=card.version,
            answers=answers[:count],
            hops=stories.hops(outputs["attention"][0], told),
            notices=[
                *notices.forgotten(card.name, told, kind.max_sentences, stories.SENTENCES),
                *notices.language(card.name, looks, stories.SENTENCES),
                *notices.unknown_words(card.name, story.unknown, len(STAND_INS)),
                *notices.unsure(answers[0].probability, card.decision["unsure"], stories.QUESTION),
            ],
        )

    def _count(self, top_k: int) -> int:
        if top_k > self._limits.answers:
            raise InvalidArgument.field("top_k", f"is {top_k}; the most is {self._limits.answers}")
        return top_k or 1

    def _threshold(self, request: pb.AnswerRequest, card: Card) -> float:
        if not request.HasField("no_answer_threshold"):
            return card.decision["no_answer"]
        threshold = request.no_answer_threshold
        if not (math.isfinite(threshold) and 0 < threshold <= 1):
            raise InvalidArgument.field("no_answer_threshold", f"is {threshold:g}; it must be above 0 and at most 1")
        return threshold

    def _windows(self, questions: Sequence[Tokens], context: Tokens, max_tokens: int) -> list[Windows]:
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
    text: str, context: Tokens, windows: Sequence[Windows], outputs: dict[str, Array], count: int, threshold: float
) -> list[pb.AnswerResult]:
    """The best spans for each question, from what the graph says of its windows."""
    answered, row = [], 0
    for one in windows:
        rows = slice(row, row := row + len(one.ids))
        spans, none = best_spans(outputs["starts"][rows], outputs["ends"][rows], one, context.words, count)
        answers = []
        for span in spans:
            start, end = whole_characters(text, context.starts[span.start], context.ends[span.end])
            answers.append(pb.Answer(text=text[start:end], start=start, end=end, probability=span.probability))
        answered.append(pb.AnswerResult(answers=answers, no_answer_probability=none, has_answer=none <= threshold))
    return answered
