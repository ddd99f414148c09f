"""Thresholds of the score by the share of normal images above them, as a card stores them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from artifacts.card import Card
from services.errors import InvalidArgument

DEFAULT_FALSE_POSITIVE_RATE = 0.05
LARGEST_FALSE_POSITIVE_RATE = 0.5
PREFIX = "threshold_at_false_positive_rate_"


@dataclass(frozen=True)
class Thresholds:
    """Rising false-positive rates, from 0, and the score that each belongs to."""

    rates: tuple[float, ...]
    scores: tuple[float, ...]

    @classmethod
    def of(cls, card: Card) -> Thresholds:
        """Those of the card's `decision`: `threshold_at_false_positive_rate_RATE` each."""
        stored = {float(name.removeprefix(PREFIX)): v for name, v in card.decision.items() if name.startswith(PREFIX)}
        rates = tuple(sorted(stored))
        return cls(rates, tuple(stored[rate] for rate in rates))

    def at(self, rate: float) -> float:
        """The threshold at a rate, between stored ones by linear interpolation; 0 = the default rate.

        Raises:
            InvalidArgument: the rate is not in (0, 0.5].
        """
        rate = rate or DEFAULT_FALSE_POSITIVE_RATE
        if not (math.isfinite(rate) and 0 < rate <= LARGEST_FALSE_POSITIVE_RATE):
            raise InvalidArgument.field(
                "false_positive_rate", f"is {rate:g}; it must be above 0 and at most {LARGEST_FALSE_POSITIVE_RATE:g}"
            )
        return float(np.interp(rate, self.rates, self.scores))
