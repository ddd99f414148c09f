"""How far an explanation can be trusted: deletion and insertion, and likeness with random weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lectern.v1 import explain_pb2 as pb
from services.explain.attribution import Attribution
from services.explain.perturbations import masked
from services.explain.subjects import Floats, ImageKind, Subject

STEPS = 32
REGIONS = 8  # along an image's longer side
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Curves:
    """Areas under the answer while what matters most is taken away, and while it is put back."""

    deletion: float
    insertion: float


async def curves(subject: Subject, attribution: Attribution) -> Curves:
    """Petsiuk et al., "RISE", 2018, in 32 steps.

    Region by region, as Samek et al., "Evaluating the visualization of what a deep neural network has learned", 2017:
    single pixels of another colour fool a network wherever they are.
    """
    nothing = subject.baseline(None, pb.BASELINE_MEAN)
    blurred = subject.baseline(None, pb.BASELINE_BLUR)
    scale = _Scale() if subject.classifies else await _Scale.of(subject, nothing)
    regions = subject.kind.groups(REGIONS)
    values = np.bincount(regions.ravel(), attribution.map.ravel()) / np.bincount(regions.ravel())
    ranks = (-values * (scale.sign if attribution.signed else 1)).argsort(kind="stable").argsort()
    shares = np.linspace(0, 1, STEPS + 1).reshape(-1, *[1] * regions.ndim)
    gone = ranks[regions] < (shares * len(ranks)).round()
    deletion = scale.apply(await masked(subject, ~gone, nothing, probability=True))
    insertion = scale.apply(await masked(subject, gone, blurred, probability=True))
    return Curves(area(deletion), area(insertion))


@dataclass(frozen=True)
class _Scale:
    """Answers as shares of the difference that the input makes; probabilities stay as they are."""

    nothing: float = 0.0
    difference: float = 1.0

    @classmethod
    async def of(cls, subject: Subject, baseline: Floats) -> _Scale:
        full, nothing = await subject.values(np.stack([subject.kind.x, baseline]))
        return cls(float(nothing), float(full - nothing) or 1.0)

    @property
    def sign(self) -> float:
        return float(np.sign(self.difference))

    def apply(self, answers: Floats) -> Floats:
        return (answers - np.float32(self.nothing)) / np.float32(self.difference)


def area(values: Floats) -> float:
    """Area under values at equal distances over 0 to 1."""
    return float(np.trapezoid(values, dx=1 / (len(values) - 1)))


def references(subject: Subject, seed: int) -> dict[str, Attribution]:
    """What methods are compared with: a random order, and where an image changes most."""
    drawn = np.random.default_rng(seed).random(subject.kind.pixels).astype(np.float32)
    found = {"random": Attribution(subject.kind.spread(drawn[None])[0], signed=False)}
    if isinstance(subject.kind, ImageKind):
        found["edges"] = Attribution(edges(subject.kind.x)[..., None], signed=False)
    return found


def edges(image: Floats) -> Floats:
    """Length of the Sobel gradient of the grey image `[height, width]`."""
    grey = np.pad(image @ LUMA if image.shape[2] == 3 else image[:, :, 0], 1, mode="edge")
    smooth = grey[:-2] + 2 * grey[1:-1] + grey[2:], grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    return np.asarray(np.hypot(smooth[0][:, 2:] - smooth[0][:, :-2], smooth[1][2:] - smooth[1][:-2]), np.float32)


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's, of the values' sizes; 0 if either has only one."""
    first, second = (_ranks(np.abs(values).ravel()) for values in (a, b))
    if not (first.std() and second.std()):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Floats) -> NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[inverse])
