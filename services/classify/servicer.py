"""ClassifyService: images, audio and texts into the classes of a model, or of examples that a request shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.card import Card, ImagePreprocessing, TextPreprocessing
from lectern.v1 import classify_pb2 as pb
from services import notices
from services.answering import answering
from services.classify import CAPABILITY
from services.classify.audio import AudioRpcs
from services.classify.episodes import ROLES, classes_of, method_and_steps, one_hot
from services.classify.text_logits import logits_of, logits_of_pairs
from services.codecs.images import decode_images, decode_named
from services.codecs.language import not_english_each
from services.codecs.tensors import softmax
from services.errors import InvalidArgument
from services.probabilities import best_first
from services.rpc import Call
from services.streams import pipelined


class ClassifyServicer(AudioRpcs):
    """Answers ClassifyService from the models of the capability `classify`."""

    async def ClassifyImage(self, request: pb.ClassifyImageRequest, call: Call) -> pb.ClassifyImageResponse:
        return pb.ClassifyImageResponse(**await self._classify_images(request, call))

    async def StreamClassifyImage(
        self, requests: AsyncIterator[pb.StreamClassifyImageRequest], call: Call
    ) -> AsyncIterator[pb.StreamClassifyImageResponse]:
        answers = pipelined(requests, lambda r: self._classify_images(r, call), self._limits.stream_window)
        async with aclosing(answers):
            async for fields in answers:
                yield pb.StreamClassifyImageResponse(**fields)

    async def ClassifyText(self, request: pb.ClassifyTextRequest, call: Call) -> pb.ClassifyTextResponse:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, TextPreprocessing)
        logits = await logits_of(request.texts, model, preprocessing, self._limits, call)
        results = classifications(logits, model.card.labels, request.top_k)
        languages = await not_english_each(request.texts)
        doubt(results, languages, model.card, "texts")
        return pb.ClassifyTextResponse(model=model.card.name, version=model.card.version, results=results)

    async def ClassifyPair(self, request: pb.ClassifyPairRequest, call: Call) -> pb.ClassifyPairResponse:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, TextPreprocessing)
        logits = await logits_of_pairs(request.pairs, model, preprocessing, self._limits, call)
        results = classifications(logits, model.card.labels, request.top_k)
        languages = await not_english_each([f"{pair.premise}\n{pair.hypothesis}" for pair in request.pairs])
        doubt(results, languages, model.card, "pairs")
        return pb.ClassifyPairResponse(model=model.card.name, version=model.card.version, results=results)

    async def ClassifyFewShot(self, request: pb.ClassifyFewShotRequest, call: Call) -> pb.ClassifyFewShotResponse:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, ImagePreprocessing)
        if model.card.labels:
            raise InvalidArgument.field("model", f"{model.card.name} has classes of its own; it learns no new ones")
        classes = classes_of(request.support, self._limits)
        method, steps = method_and_steps(request, int(model.card.decision["steps"]), self._limits)
        examples = {f"support[{i}].image": example.image for i, example in enumerate(request.support)}
        inputs: dict[str, NDArray[Any]] = {
            "support": await decode_named(examples, preprocessing, self._limits),
            "labels": one_hot((example.label for example in request.support), classes),
            "queries": await decode_images(request.queries, preprocessing, self._limits, "queries"),
        }
        if steps:
            inputs["steps"] = np.array([steps])
        outputs = await model.graphs[ROLES[method]].infer(inputs, call.deadline, call.priority)
        results = classifications(outputs["logits"], classes, request.top_k)
        return pb.ClassifyFewShotResponse(
            model=model.card.name, version=model.card.version, results=results, method=method
        )

    async def _classify_images(
        self, request: pb.ClassifyImageRequest | pb.StreamClassifyImageRequest, call: Call
    ) -> dict[str, Any]:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, ImagePreprocessing)
        card = model.card
        if not card.labels:
            raise InvalidArgument.field(
                "model", f"{card.name} has no classes of its own; show it some: ClassifyFewShot"
            )
        images = await decode_images(request.images, preprocessing, self._limits)
        outputs = await model.graphs["forward"].infer({"images": images}, call.deadline, call.priority)
        results = classifications(outputs["logits"], card.labels, request.top_k)
        return {"model": card.name, "version": card.version, "results": results}


def classifications(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[pb.Classification]:
    """Logits `[N, len(labels)]` as classes with softmax probabilities, best first; `top_k` 0 = all."""
    return [pb.Classification(classes=classes) for classes in best_first(softmax(logits), labels, top_k)]


def doubt(results: Sequence[pb.Classification], languages: Sequence[str | None], card: Card, field: str) -> None:
    """Add the notices of texts that look like another language than English, and of classes that are unsure."""
    least = card.decision.get("unsure", 0.0)
    for i, (result, looks) in enumerate(zip(results, languages, strict=True)):
        result.notices.extend(notices.language(card.name, looks, f"{field}[{i}]"))
        result.notices.extend(notices.unsure(result.classes[0].probability, least, f"{field}[{i}]"))
