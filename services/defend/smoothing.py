"""Randomised smoothing: the class that wins among noisy copies, and how far no change can unseat it.

Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lectern.v1 import defend_pb2 as pb
from services.defend.attacks import RANGE
from services.defend.classifier import Images
from services.defend.defences import Chain, defence_randoms, rounded
from services.errors import InvalidArgument
from services.limits import Limits
from services.parameters import number, whole

NOISE, SAMPLES, CONFIDENCE = 0.12, 200, 0.999
CHOOSING = 5  # one copy in so many chooses the class
CHUNK = 64
HALVINGS = 50


@dataclass(frozen=True)
class Smoothing:
    """How an answer is smoothed; `noise` is a share of the range."""

    noise: float
    samples: int
    confidence: float

    async def certify(self, image: Images, chain: Chain, seed: int) -> pb.Certificate:
        """The certified answer to one image `[height, width, channels]`."""
        random = defence_randoms(seed, 1)[0]
        choosing = self.samples // CHOOSING
        votes = np.zeros(len(chain.classifier.card.labels), np.int64)
        chosen, left = -1, self.samples
        for size in _chunks(choosing, self.samples - choosing):
            if chosen < 0 and left <= self.samples - choosing:
                chosen, votes = int(votes.argmax()), np.zeros_like(votes)
            noise = random.standard_normal((size, *image.shape), np.float32) * np.float32(RANGE * self.noise)
            answers = await chain.logits(rounded(image + noise), seed)
            votes += np.bincount(answers.argmax(1), minlength=len(votes))
            left -= size
        share = lower_bound(int(votes[chosen]), self.samples - choosing, 1 - self.confidence)
        radius = self.noise * NormalDist().inv_cdf(share) if share > 0.5 else 0.0
        label, probability = chain.classifier.card.labels[chosen], votes[chosen] / votes.sum()
        said = pb.PredictedClass(label=label, index=chosen, probability=probability)
        return pb.Certificate(prediction=said, radius=radius)


def read_smoothing(request: pb.DefendRequest, limits: Limits) -> Smoothing | None:
    """What was asked for; None = nothing.

    Raises:
        InvalidArgument: a parameter is out of bounds.
    """
    if not request.HasField("smoothing"):
        return None
    asked = request.smoothing
    noise = number(asked, "noise", NOISE, 1, "smoothing.noise")
    samples = whole(asked, "samples", SAMPLES, 10, limits.smoothing_samples, "smoothing.samples")
    confidence = number(asked, "confidence", CONFIDENCE, 0.999999, "smoothing.confidence")
    if confidence < 0.5:
        raise InvalidArgument.field("smoothing.confidence", f"is {confidence:g}; it must be 0.5 to 0.999999")
    return Smoothing(noise, samples, confidence)


def lower_bound(hits: int, trials: int, risk: float) -> float:
    """The least share that is consistent with so many hits, at that risk of being wrong (Clopper & Pearson 1934)."""
    if not hits:
        return 0.0
    terms = [_log_choose(trials, k) for k in range(hits, trials + 1)]
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        logs = [t + k * math.log(share) + (trials - k) * math.log1p(-share) for k, t in enumerate(terms, start=hits)]
        low, high = (share, high) if math.fsum(map(math.exp, logs)) < risk else (low, share)
    return low


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _chunks(*sizes: int) -> list[int]:
    """Each size in parts of at most CHUNK."""
    return [min(CHUNK, size - start) for size in sizes for start in range(0, size, CHUNK)]
