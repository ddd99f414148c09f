"""Balls: the images within epsilon of others by a norm, in which attacks stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.defend.methods.pixels import RANGE, Floats, Randoms


class Ball(Protocol):
    """Images `[N, height, width, channels]`, 0 to 255, around others; `epsilon` is its radius in pixel values."""

    @property
    def epsilon(self) -> float: ...

    def steepest(self, directions: Floats) -> Floats:
        """Steps of size 1 by the norm that go furthest along directions."""

    def nearest(self, xs: Floats, origin: Floats) -> Floats:
        """The nearest images within epsilon of `origin` whose values are those of pixels."""

    def random(self, origin: Floats, randoms: Randoms) -> Floats:
        """Images somewhere within epsilon of `origin`."""


@dataclass(frozen=True)
class LinfBall:
    """By the largest change of any value."""

    epsilon: float

    def steepest(self, directions: Floats) -> Floats:
        return np.sign(directions)

    def nearest(self, xs: Floats, origin: Floats) -> Floats:
        return _pixels(origin + (xs - origin).clip(-self.epsilon, self.epsilon))

    def random(self, origin: Floats, randoms: Randoms) -> Floats:
        drawn = np.stack([random.random(origin.shape[1:], np.float32) for random in randoms])
        return self.nearest(origin + np.float32(self.epsilon) * (2 * drawn - 1), origin)


@dataclass(frozen=True)
class L2Ball:
    """By the length of the change."""

    epsilon: float

    def steepest(self, directions: Floats) -> Floats:
        return directions / _lengths(directions)

    def nearest(self, xs: Floats, origin: Floats) -> Floats:
        change = xs - origin
        return _pixels(origin + change * np.minimum(1, np.float32(self.epsilon) / _lengths(change)))

    def random(self, origin: Floats, randoms: Randoms) -> Floats:
        drawn = np.stack([random.standard_normal(origin.shape[1:], np.float32) for random in randoms])
        shares = np.array([random.random(dtype=np.float32) for random in randoms]).reshape(-1, 1, 1, 1)
        return self.nearest(origin + np.float32(self.epsilon) * shares * drawn / _lengths(drawn), origin)


def _pixels(xs: Floats) -> Floats:
    return np.asarray(xs.clip(0, RANGE), np.float32)


def _lengths(values: Floats) -> Floats:
    """L2, of each image; never 0."""
    return np.asarray(np.sqrt(np.square(values).sum((1, 2, 3), keepdims=True)).clip(min=1e-12), np.float32)
