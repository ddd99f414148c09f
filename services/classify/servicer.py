"""ClassifyService: images (and, as their models come, texts, audio and new classes) into labelled classes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lectern.card import ImagePreprocessing
from lectern.v1 import classify_pb2 as pb
from services.classify.episodes import ROLES, classes_of, method_and_steps, one_hot
from services.classify.texts import logits_of
from services.codecs.images import decode_images, decode_named
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model, Repository
from services.streams import pipelined

CAPABILITY = "classify"
DEFAULT_IMAGE_MODEL = "image_classifier"
DEFAULT_TEXT_MODEL = "sentiment_classifier"
DEFAULT_FEW_SHOT_MODEL = "few_shot_classifier"


class ClassifyServicer:
    """Answers ClassifyService from the models of the capability `classify`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def ClassifyImage(self, request: pb.ClassifyImageRequest, call: Call) -> pb.ClassifyImageResponse:
        return pb.ClassifyImageResponse(**await self._classify_images(request, call))

    async def StreamClassifyImage(
        self, requests: AsyncIterator[pb.StreamClassifyImageRequest], call: Call
    ) -> AsyncIterator[pb.StreamClassifyImageResponse]:
        async for fields in pipelined(requests, lambda r: self._classify_images(r, call), self._limits.stream_window):
            yield pb.StreamClassifyImageResponse(**fields)

    async def ClassifyText(self, request: pb.ClassifyTextRequest, call: Call) -> pb.ClassifyTextResponse:
        model = self._repository.find(request.model or DEFAULT_TEXT_MODEL, request.version, CAPABILITY)
        card = model.card
        call.model = f"{card.name}/{card.version}"
        logits = await logits_of(request.texts, model, self._limits, call)
        results = classifications(logits, card.labels, request.top_k)
        return pb.ClassifyTextResponse(model=card.name, version=card.version, results=results)

    async def ClassifyFewShot(self, request: pb.ClassifyFewShotRequest, call: Call) -> pb.ClassifyFewShotResponse:
        model, preprocessing = self._find(request.model or DEFAULT_FEW_SHOT_MODEL, request.version, call)
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
        model, preprocessing = self._find(request.model or DEFAULT_IMAGE_MODEL, request.version, call)
        card = model.card
        if not card.labels:
            raise InvalidArgument.field(
                "model", f"{card.name} has no classes of its own; show it some: ClassifyFewShot"
            )
        images = await decode_images(request.images, preprocessing, self._limits)
        outputs = await model.graphs["forward"].infer({"images": images}, call.deadline, call.priority)
        results = classifications(outputs["logits"], card.labels, request.top_k)
        return {"model": card.name, "version": card.version, "results": results}

    def _find(self, name: str, version: int, call: Call) -> tuple[Model, ImagePreprocessing]:
        """The model that answers and how it takes images.

        Raises:
            NotFound, Unavailable, InvalidArgument: see `Repository.find`; or it does not take images.
        """
        model = self._repository.find(name, version, CAPABILITY)
        call.model = f"{model.card.name}/{model.card.version}"
        if not isinstance(model.card.preprocessing, ImagePreprocessing):
            raise InvalidArgument.field("model", f"{model.card.name} does not take images")
        return model, model.card.preprocessing


def classifications(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[pb.Classification]:
    """Logits `[N, len(labels)]` as classes with softmax probabilities, best first; `top_k` 0 = all."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, : top_k or None]
    return [
        pb.Classification(classes=[pb.ScoredClass(label=labels[i], index=i, probability=row[i]) for i in order])
        for row, order in zip(probabilities.tolist(), best.tolist(), strict=True)
    ]
