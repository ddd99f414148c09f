"""The search for the highest rate of calls that a server answers in time."""

from __future__ import annotations

import math

import numpy as np

STEP = 2.0  # away from the first guess, until one rate passed and one failed
RESOLUTION = 1.1  # of the two that are left
SLOWEST = 0.05  # calls a second
GROWTH = 2.0
LEAST_FOR_GROWTH = 16


class RateSearch:
    """Away from a first guess until a rate has passed and a higher one has failed, then between them.

    Args:
        guess: calls a second.

    Attributes:
        passed: the highest rate that passed below `failed`; 0 = none did.
        failed: the lowest rate that failed; infinite = none did.
    """

    def __init__(self, guess: float) -> None:
        self._guess = guess
        self.passed, self.failed = 0.0, math.inf

    def next(self) -> float | None:
        """The rate to try now; None if the search is over."""
        if not self.passed and math.isinf(self.failed):
            return self._guess
        if math.isinf(self.failed):
            return self.passed * STEP
        if not self.passed:
            return self.failed / STEP if self.failed > SLOWEST else None
        return math.sqrt(self.passed * self.failed) if self.failed / self.passed > RESOLUTION else None

    def tell(self, rate: float, passed: bool) -> None:
        """Note how the rate that `next` gave was answered."""
        if passed:
            self.passed = max(self.passed, rate)
        else:
            self.failed = min(self.failed, rate)


def grows(times: list[float], floor: float) -> bool:
    """Whether latency grew while a rate was offered, so that a longer run would end up late: above capacity a queue
    grows for as long as one looks, and a short look sees only its beginning.

    Args:
        times: latencies in order of their ends.
        floor: a median below this is no sign of a queue.
    """
    if len(times) < LEAST_FOR_GROWTH:
        return False
    half = len(times) // 2
    first, second = float(np.median(times[:half])), float(np.median(times[half:]))
    return second > floor and second > GROWTH * first
