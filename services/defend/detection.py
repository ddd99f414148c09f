"""Whether an image looks attacked: feature squeezing, with a threshold that was calibrated on clean images."""

from __future__ import annotations

import numpy as np

from lectern import squeezing
from lectern.card import Card
from lectern.v1 import defend_pb2 as pb
from services import pools
from services.codecs.tensors import softmax
from services.defend.classifier import Classifier, Floats, Images
from services.parameters import number

FALSE_POSITIVE_RATE, HIGHEST_RATE = 0.05, 0.5


def read_threshold(request: pb.DefendRequest, card: Card) -> float | None:
    """The score above which an image looks attacked; None if the model has not been calibrated.

    Raises:
        InvalidArgument: the rate that was asked for is out of bounds.
    """
    rate = number(request, "false_positive_rate", FALSE_POSITIVE_RATE, HIGHEST_RATE, "false_positive_rate")
    prefix = squeezing.THRESHOLD
    stored = sorted((float(n.removeprefix(prefix)), v) for n, v in card.decision.items() if n.startswith(prefix))
    rates, scores = ([pair[i] for pair in stored] for i in range(2))
    return float(np.interp(rate, rates, scores)) if stored else None


async def detect(images: Images, logits: Floats, classifier: Classifier, threshold: float | None) -> list[pb.Detection]:
    """The verdict on each image, of which the model says `logits`."""
    copies = await pools.codecs.run(squeezing.squeezed, images)
    answers = [softmax(await classifier.logits(copy)) for copy in copies]
    found = squeezing.scores(softmax(logits), answers)
    if threshold is None:
        return [pb.Detection(score=score) for score in found.tolist()]
    return [pb.Detection(score=s, threshold=threshold, attacked=s > threshold) for s in found.tolist()]
