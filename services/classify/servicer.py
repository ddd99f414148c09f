"""ClassifyService: images (and, as their models come, texts, audio and new classes) into labelled classes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lectern.card import ImagePreprocessing
from lectern.v1 import classify_pb2 as pb
from services.codecs.images import decode_images
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Repository
from services.streams import pipelined

CAPABILITY = "classify"
DEFAULT_IMAGE_MODEL = "image_classifier"


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

    async def _classify_images(
        self, request: pb.ClassifyImageRequest | pb.StreamClassifyImageRequest, call: Call
    ) -> dict[str, Any]:
        model = self._repository.find(request.model or DEFAULT_IMAGE_MODEL, request.version, CAPABILITY)
        card, preprocessing = model.card, model.card.preprocessing
        call.model = f"{card.name}/{card.version}"
        if not isinstance(preprocessing, ImagePreprocessing):
            raise InvalidArgument.field("model", f"{card.name} does not take images")
        images = await decode_images(request.images, preprocessing, self._limits)
        outputs = await model.graphs["forward"].infer({"images": images}, call.deadline, call.priority)
        results = classifications(outputs["logits"], card.labels, request.top_k)
        return {"model": card.name, "version": card.version, "results": results}


def classifications(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[pb.Classification]:
    """Logits `[N, len(labels)]` as classes with softmax probabilities, best first; `top_k` 0 = all."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, : top_k or None]
    return [
        pb.Classification(classes=[pb.ScoredClass(label=labels[i], index=i, probability=row[i]) for i in order])
        for row, order in zip(probabilities.tolist(), best.tolist(), strict=True)
    ]
