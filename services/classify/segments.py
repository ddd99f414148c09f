"""Classes of frames into segments of one class each, for clips and for recordings under way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lectern.v1 import classify_pb2 as pb


class Segments:
    """Puts consecutive frames of one class together, whether they come at once or a few at a time.

    Args:
        labels: names of the classes.
        frame_seconds: how long a frame lasts.
    """

    def __init__(self, labels: Sequence[str], frame_seconds: float) -> None:
        self._labels = labels
        self._frame_seconds = frame_seconds
        self._index = -1
        self._start = self._frames = 0
        self._confidence = 0.0  # summed over the frames of the current segment

    def add(self, probabilities: NDArray[np.float32]) -> list[pb.AudioSegment]:
        """The segments that these frames, `[F, classes]`, have ended."""
        best = probabilities.argmax(axis=1)
        starts = np.flatnonzero(np.diff(best, prepend=-1))
        sums = np.add.reduceat(probabilities.max(axis=1), starts)
        ended = []
        for start, confidence in zip(starts.tolist(), sums.tolist(), strict=True):
            index = int(best[start])
            if index != self._index:
                if self._index >= 0:
                    ended.append(self._segment(self._frames + start))
                self._index, self._start, self._confidence = index, self._frames + start, 0.0
            self._confidence += confidence
        self._frames += len(best)
        return ended

    @property
    def seconds(self) -> float:
        """From the start of the first frame to the end of the last."""
        return self._frames * self._frame_seconds

    def current(self) -> pb.AudioSegment:
        """The one that the last frame belongs to, as far as it is known."""
        return self._segment(self._frames)

    def _segment(self, stop: int) -> pb.AudioSegment:
        return pb.AudioSegment(
            label=self._labels[self._index],
            index=self._index,
            start_seconds=self._start * self._frame_seconds,
            end_seconds=stop * self._frame_seconds,
            confidence=self._confidence / (stop - self._start),
        )
