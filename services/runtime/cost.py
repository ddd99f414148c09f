"""Estimates how long a run of a graph takes, from the runs that succeeded."""

from __future__ import annotations

FORGETTING = 0.95  # the weight of a run is multiplied by this with each later run
PRIOR_WEIGHT = 1.0  # weight of the given `per_place`, as if runs differed by a variance of one place


class RunCost:
    """Seconds of a run as `fixed + per_place * places`: least squares over past runs, weighted towards recent ones.

    Places are rows, or rows times the longest length if rows of different lengths run together. As long as all runs
    have about as many places, `per_place` stays near the given value.

    Args:
        per_place: seconds, measured before; 0 = the cost of a run does not depend on its size.
    """

    def __init__(self, per_place: float = 0.0) -> None:
        self.given = per_place
        self.fixed = 0.0
        self.per_place = 0.0
        # Weighted sums over runs: 1, places, seconds, places * places, places * seconds.
        self._n = self._p = self._s = self._pp = self._ps = 0.0

    def observe(self, places: int, seconds: float) -> None:
        """Learn from a run that succeeded."""
        keep = FORGETTING
        self._n = keep * self._n + 1
        self._p = keep * self._p + places
        self._s = keep * self._s + seconds
        self._pp = keep * self._pp + places * places
        self._ps = keep * self._ps + places * seconds
        mean_places, mean_seconds = self._p / self._n, self._s / self._n
        variance = self._pp / self._n - mean_places**2
        covariance = self._ps / self._n - mean_places * mean_seconds
        self.per_place = max(0.0, (covariance + PRIOR_WEIGHT * self.given) / (variance + PRIOR_WEIGHT))
        self.fixed = mean_seconds - self.per_place * mean_places
        if self.fixed < 0:
            self.fixed, self.per_place = 0.0, self._ps / self._pp

    def seconds(self, batches: int, places: int) -> float:
        """Estimate for so many runs with so many places in all; 0 before the first observation."""
        return batches * self.fixed + places * self.per_place
