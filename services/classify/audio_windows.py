"""Windows of audio: clips of any length as rows that a graph takes, and the part of each answer to keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.card import AudioPreprocessing

# Windows are padded to multiples of this many steps, so that clips of nearly the same length run as one batch.
BUCKET_STEPS = 25
# A live window moves by this many steps: half a second at 16 kHz and 20 ms.
LIVE_STEPS = 25

Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Window:
    """A piece of audio, whose samples from `start` to `stop` are answered for; the rest is context."""

    samples: Samples
    start: int
    stop: int

    def padded(self, length: int) -> Samples:
        """The samples with zeros behind them."""
        return np.pad(self.samples, (0, length - len(self.samples)))


def windows(samples: Samples, preprocessing: AudioPreprocessing) -> Iterator[Window]:
    """Windows whose parts from `start` to `stop` make up the whole."""
    window, context = preprocessing.window, preprocessing.context
    first = 0
    while True:
        part = samples[first : first + window]
        last = first + window >= len(samples)
        yield Window(part, context if first else 0, len(part) if last else window - context)
        if last:
            return
        first += window - 2 * context


def padded_length(window: Window, preprocessing: AudioPreprocessing) -> int:
    """How long a row the window goes into."""
    bucket = min(BUCKET_STEPS * preprocessing.step, preprocessing.window)
    return -(-len(window.samples) // bucket) * bucket


class LiveWindows:
    """Windows of audio that is still arriving: each moves on by half a second, once its context is there.

    Holds no more than one window and what has not been taken yet.
    """

    def __init__(self, preprocessing: AudioPreprocessing) -> None:
        self._context = preprocessing.context
        self._advance = LIVE_STEPS * preprocessing.step
        self._samples: Samples = np.empty(0, np.int16)
        self._done = 0  # samples of the buffer that were answered for

    def add(self, samples: Samples, last: bool = False) -> Iterator[Window]:
        """The windows that these samples complete."""
        self._samples = np.concatenate([self._samples, samples])
        while len(self._samples) - self._done >= self._advance + self._context:
            yield self._window(self._done + self._advance)
        if last and len(self._samples) > self._done:
            yield self._window(len(self._samples))

    def _window(self, stop: int) -> Window:
        part = Window(self._samples[: stop + self._context], self._done, stop)
        kept_from = max(0, stop - self._context)
        self._samples, self._done = self._samples[kept_from:], stop - kept_from
        return part
