"""DetectAnomalyService: images that look unlike the training data, by how much, and where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import numpy as np

from artifacts.card import ImagePreprocessing
from lectern.v1 import detect_anomaly_pb2 as pb
from services import pools
from services.answering import answering
from services.codecs.heat_maps import heat_map
from services.codecs.images import decode_images
from services.codecs.png import encode_png
from services.detect_anomaly import CAPABILITY
from services.detect_anomaly.thresholds import Thresholds
from services.limits import Limits
from services.rpc import Call
from services.runtime.graph import Array
from services.runtime.repository import Repository
from services.streams import pipelined

HEAT_MAP_SCALE = 8


class DetectAnomalyServicer:
    """Answers DetectAnomalyService from the models of the capability `detect_anomaly`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def DetectAnomaly(self, request: pb.DetectAnomalyRequest, call: Call) -> pb.DetectAnomalyResponse:
        return pb.DetectAnomalyResponse(**await self._detect(request, call))

    async def StreamDetectAnomaly(
        self, requests: AsyncIterator[pb.StreamDetectAnomalyRequest], call: Call
    ) -> AsyncIterator[pb.StreamDetectAnomalyResponse]:
        answers = pipelined(requests, lambda r: self._detect(r, call), self._limits.stream_window)
        async with aclosing(answers):
            async for fields in answers:
                yield pb.StreamDetectAnomalyResponse(**fields)

    async def _detect(
        self, request: pb.DetectAnomalyRequest | pb.StreamDetectAnomalyRequest, call: Call
    ) -> dict[str, Any]:
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, ImagePreprocessing)
        threshold = Thresholds.of(model.card).at(request.false_positive_rate)
        images = await decode_images(request.images, preprocessing, self._limits)
        outputs = await model.graphs["forward"].infer({"images": images}, call.deadline, call.priority)
        results = detections(outputs, threshold)
        # Many pictures take long enough to delay other callers, so drawing them leaves the event loop.
        if request.include_reconstruction:
            await pools.codecs.run(_draw_reconstructions, results, outputs["reconstruction"])
        if request.include_heat_map:
            await pools.codecs.run(_draw_heat_maps, results, outputs["error_map"])
        return {"model": model.card.name, "version": model.card.version, "results": results}


def detections(outputs: Mapping[str, Array], threshold: float) -> list[pb.AnomalyDetection]:
    """Scores and probabilities `[N, 1]` with the decision at the threshold."""
    return [
        pb.AnomalyDetection(score=score, probability=probability, threshold=threshold, anomalous=score > threshold)
        for (score,), (probability,) in zip(outputs["score"].tolist(), outputs["probability"].tolist(), strict=True)
    ]


def _draw_reconstructions(results: list[pb.AnomalyDetection], reconstructions: Array) -> None:
    for result, values in zip(results, reconstructions, strict=True):
        result.reconstruction = encode_png((255 * values).round().astype(np.uint8))


def _draw_heat_maps(results: list[pb.AnomalyDetection], error_maps: Array) -> None:
    for result, errors in zip(results, error_maps, strict=True):
        result.heat_map = heat_map(errors, HEAT_MAP_SCALE)
