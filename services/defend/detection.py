"""Whether an image looks attacked: feature squeezing, with a threshold that was calibrated on clean images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from artifacts import squeezing
from artifacts.card import Card
from lectern.v1 import defend_pb2 as pb
from services.codecs.tensors import softmax
from services.defend.methods.pixels import Floats
from services.parameters import number

FALSE_POSITIVE_RATE, HIGHEST_RATE = 0.05, 0.5


def read_threshold(request: pb.DefendRequest, card: Card) -> float | None:
    """The score above which an image looks attacked; None if the model has not been calibrated.

    Raises:
        InvalidArgument: the rate is out of bounds.
    """
    rate = number(request, "false_positive_rate", FALSE_POSITIVE_RATE, HIGHEST_RATE, "false_positive_rate")
    prefix = squeezing.THRESHOLD
    stored = sorted((float(n.removeprefix(prefix)), v) for n, v in card.decision.items() if n.startswith(prefix))
    rates, scores = ([pair[i] for pair in stored] for i in range(2))
    return float(np.interp(rate, rates, scores)) if stored else None


def detections(logits: Floats, of_squeezed: Sequence[Floats], threshold: float | None) -> list[pb.Detection]:
    """The verdict on each image, from what the model says of it and of its copies by `squeezing.squeezed`."""
    scores = squeezing.scores(softmax(logits), [softmax(copy) for copy in of_squeezed])
    if threshold is None:
        return [pb.Detection(score=score) for score in scores.tolist()]
    return [pb.Detection(score=s, threshold=threshold, attacked=s > threshold) for s in scores.tolist()]
