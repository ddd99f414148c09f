"""Certificates of Defend: how a request wants answers smoothed, and the smoothed answers as messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lectern.v1 import defend_pb2 as pb
from services.defend.defences import Chain, defence_randoms
from services.defend.methods.pixels import Images
from services.defend.methods.randomised_smoothing import certify
from services.errors import InvalidArgument
from services.limits import Limits
from services.parameters import number, whole

NOISE, SAMPLES, CONFIDENCE = 0.12, 200, 0.999


@dataclass(frozen=True)
class Smoothing:
    """How an answer is smoothed; `noise` is a share of the range."""

    noise: float
    samples: int
    confidence: float

    async def certificate(self, image: Images, chain: Chain, seed: int) -> pb.Certificate:
        """The certified answer to one image `[height, width, channels]`."""

        async def classify(copies: Images) -> NDArray[np.int64]:
            return np.asarray((await chain.logits(copies, seed)).argmax(1))

        labels = chain.classifier.card.labels
        certified = await certify(
            image,
            classify,
            defence_randoms(seed, 1)[0],
            classes=len(labels),
            noise=self.noise,
            samples=self.samples,
            confidence=self.confidence,
        )
        label = labels[certified.index]
        prediction = pb.PredictedClass(label=label, index=certified.index, probability=certified.share)
        return pb.Certificate(prediction=prediction, radius=certified.radius)


def read_smoothing(request: pb.DefendRequest, limits: Limits) -> Smoothing | None:
    """How the request wants answers smoothed; None = not at all.

    Raises:
        InvalidArgument: a parameter is out of bounds.
    """
    if not request.HasField("smoothing"):
        return None
    parameters = request.smoothing
    noise = number(parameters, "noise", NOISE, 1, "smoothing.noise")
    samples = whole(parameters, "samples", SAMPLES, 10, limits.smoothing_samples, "smoothing.samples")
    confidence = number(parameters, "confidence", CONFIDENCE, 0.999999, "smoothing.confidence")
    if confidence < 0.5:
        raise InvalidArgument.field("smoothing.confidence", f"is {confidence:g}; it must be 0.5 to 0.999999")
    return Smoothing(noise, samples, confidence)
