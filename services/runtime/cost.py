"""How long the runs of a graph take, learnt from those that succeeded."""

from __future__ import annotations

FORGETTING = 0.95  # by which a run counts less with each that follows it
PRIOR_WEIGHT = 1.0  # of the given `per_row`: as a spread of one row's variance


class RunCost:
    """Seconds of a run as `fixed + per_row * rows`: least squares over the runs seen, recent ones first.

    As long as the runs hardly differ in rows, `per_row` stays near the one that is given.

    Args:
        per_row: seconds, measured before; 0 = a run costs the same whatever its rows.
    """

    def __init__(self, per_row: float = 0.0) -> None:
        self._given = per_row
        self.fixed = 0.0
        self.per_row = 0.0
        # Weighted sums over runs: 1, rows, seconds, rows * rows, rows * seconds.
        self._n = self._r = self._s = self._rr = self._rs = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a run that succeeded."""
        keep = FORGETTING
        self._n = keep * self._n + 1
        self._r = keep * self._r + rows
        self._s = keep * self._s + seconds
        self._rr = keep * self._rr + rows * rows
        self._rs = keep * self._rs + rows * seconds
        mean_rows, mean_seconds = self._r / self._n, self._s / self._n
        variance = self._rr / self._n - mean_rows**2
        covariance = self._rs / self._n - mean_rows * mean_seconds
        self.per_row = max(0.0, (covariance + PRIOR_WEIGHT * self._given) / (variance + PRIOR_WEIGHT))
        self.fixed = mean_seconds - self.per_row * mean_rows
        if self.fixed < 0:
            self.fixed, self.per_row = 0.0, self._rs / self._rr

    def seconds(self, batches: int, rows: int) -> float:
        """Of so many runs with so many rows in all; 0 before the first was seen."""
        return batches * self.fixed + rows * self.per_row
