"""Whether rows are like those that a model learned from, and whether what it says can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from artifacts.card import TabularPreprocessing
from lectern.v1 import predict_pb2 as pb
from services import notices
from services.errors import InvalidArgument

MOST_NAMED = 3  # features of a row that are named
ROOM = 0.1  # of a feature's range, beyond which a value is unlike those that were seen


@dataclass(frozen=True)
class Seen:
    """What training saw of each feature, and what its targets can be.

    Args:
        lowest, highest: of each feature, with some room, [F].
        one_of: ranges of features of which one is 1 and the others 0.
        possible: the least and the greatest value of each target, [2, T]; None = any.
    """

    features: tuple[str, ...]
    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    one_of: tuple[tuple[int, int], ...]
    possible: NDArray[np.float32] | None

    def doubts(self, rows: NDArray[np.float32]) -> dict[int, str]:
        """By number of a row [N, F] that is unlike those that were seen, how so."""
        outside = (rows < self.lowest) | (rows > self.highest)
        unclear = [self._unclear(rows[:, first:end]) for first, end in self.one_of]
        doubtful = np.flatnonzero(np.any([outside.any(axis=1), *unclear], axis=0))
        return {int(i): self._doubt(rows[i], outside[i], [one[i] for one in unclear]) for i in doubtful}

    def predictions(self, values: NDArray[np.float32], doubts: dict[int, str]) -> list[pb.Prediction]:
        """What a model said of rows [N, T], as far as it can be, with a notice of each doubt."""
        clamped = values if self.possible is None else np.clip(values, *self.possible)
        changed = (clamped != values).any(axis=1).tolist()
        found = [pb.Prediction(values=row, clamped=own) for row, own in zip(clamped.tolist(), changed, strict=True)]
        for i, text in doubts.items():
            found[i].notices.append(notices.unlike_training(text, f"rows[{i}]"))
        return found

    @staticmethod
    def _unclear(part: NDArray[np.float32]) -> NDArray[np.bool_]:
        unclear: NDArray[np.bool_] = (part.sum(axis=1) != 1) | (part.max(axis=1) != 1) | (part.min(axis=1) != 0)
        return unclear

    def _doubt(self, row: NDArray[np.float32], outside: NDArray[np.bool_], unclear: Sequence[np.bool_]) -> str:
        texts = [
            f"of {self.features[first]} to {self.features[end - 1]} one must be 1 and the others 0"
            for (first, end), wrong in zip(self.one_of, unclear, strict=True)
            if wrong
        ]
        places = [i for i in np.flatnonzero(outside) if not any(first <= i < end for first, end in self.one_of)]
        texts += [
            f"{self.features[i]} is {row[i]:g}, beyond {self.lowest[i]:.4g} to {self.highest[i]:.4g}"
            for i in places[:MOST_NAMED]
        ]
        more = len(places) - MOST_NAMED
        return "; ".join([*texts, f"and so are {more} more"] if more > 0 else texts)


def refuse(doubts: dict[int, str]) -> None:
    """Refuse the first row that is unlike those that were seen.

    Raises:
        InvalidArgument: there is one; names it.
    """
    for i, text in doubts.items():
        raise InvalidArgument.field(f"rows[{i}]", notices.unlike_training(text, "").text)


@lru_cache(maxsize=64)
def seen(table: TabularPreprocessing) -> Seen:
    """What a card says of what training saw; without bounds nothing is doubted."""
    unknown = ((-np.inf, np.inf),) * len(table.features)
    lowest, highest = np.array(table.bounds or unknown, np.float32).T
    room = ROOM * (highest - lowest) if table.bounds else 0
    possible = None if table.target_bounds is None else np.array(table.target_bounds, np.float32).T
    return Seen(table.features, lowest - room, highest + room, table.one_of, possible)
