"""Figures with what bounds them: intervals of 95 % confidence, how well each class is told, and calibration.

A share has Wilson's interval ("Probable Inference", 1927), a mean that of the normal distribution, an area under the
ROC curve that of Hanley and McNeil ("The Meaning and Use of the Area under a ROC Curve", 1982); all else is resampled
over independent items (Efron, "Bootstrap Methods", 1979): sentences where frames are counted, voices where pairs are.

Some figures have no interval: a ratio of times depends on the machine, not on the items; a Fréchet distance and a
calibration error grow with the noise that resampling adds; forgetting needs the networks of earlier tasks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support

from artifacts.card import Calibration, CalibrationBin, ClassScores, Metric, Split

Interval = tuple[float, float]
CONFIDENCE = 0.95
DEVIATIONS = 1.96  # of a normal distribution, that hold 95 %
RESAMPLES = 1000
BINS = 15
# Names of metrics that are the share of `n` items that have some property.
SHARE = re.compile(r"(?!.*_mean_)(.*_)?(accuracy|exact_match)(_.*)?|copies|false_positive_rate|form_respected|solved")


@dataclass(frozen=True)
class Evaluation:
    """What a model reaches on its test split; of classifiers also each class, and the calibration."""

    metrics: tuple[Metric, ...]
    per_class: tuple[ClassScores, ...] = ()
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Decisions:
    """The class that is decided for each item, int64 [N], and its probability [N]."""

    classes: NDArray[np.int64]
    confidences: NDArray[np.float64]

    @classmethod
    def of(cls, logits: Any) -> Decisions:
        """By logits [N, classes], or the logarithms of probabilities."""
        logits = np.asarray(logits, np.float64)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return cls(logits.argmax(axis=1), 1 / shifted.sum(axis=1))

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        """The share of items whose label [N] is decided."""
        return float(np.mean(self.classes == labels))


def share(name: str, value: float, n: int, split: Split = "test", *, independent: int = 0, **target: Any) -> Metric:
    """A share of `n` items, of which `independent` (0 = all) are; `target` as in `Metric`."""
    return Metric(name=name, value=value, split=split, n=n, interval=wilson(value, independent or n), **target)


def mean(name: str, values: Any, split: Split = "test", **target: Any) -> Metric:
    """The mean of values [N] of independent items."""
    values = np.asarray(values, np.float64)
    value, error = float(values.mean()), DEVIATIONS * float(values.std(ddof=1)) / math.sqrt(len(values))
    interval = (value - error, value + error)
    return Metric(name=name, value=value, split=split, n=len(values), interval=interval, **target)


def area(
    name: str,
    aucs: Sequence[float],
    positives: int,
    negatives: int,
    split: Split = "test",
    *,
    n: int = 0,
    **target: Any,
) -> Metric:
    """The mean of areas under ROC curves, each of so many anomalies and normal items, of `n` in all, by default their
    sum; several are of the same items, so their errors may be as one."""
    error = DEVIATIONS * float(np.mean([_hanley_mcneil(auc, positives, negatives) for auc in aucs]))
    value = float(np.mean(aucs))
    interval = (max(0.0, value - error), min(1.0, value + error))
    return Metric(name=name, value=value, split=split, n=n or positives + negatives, interval=interval, **target)


def wilson(value: float, n: int) -> Interval:
    """Wilson's interval of a share of `n` independent items."""
    interval = stats.binomtest(round(value * n), n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(statistic: Callable[..., float], *columns: Any) -> Interval:
    """The percentile interval of a statistic of columns [N, ..], whose rows are resampled together, always in the same
    way; samples of which it is not a number are left out."""
    random, arrays = np.random.default_rng(0), [np.asarray(column) for column in columns]
    n = len(arrays[0])
    samples = (random.integers(n, size=n) for _ in range(RESAMPLES))
    values = [statistic(*(array[rows] for array in arrays)) for rows in samples]
    low, high = np.nanquantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> float:
    """Of sums, as a statistic for `bootstrap` of items that count for more than one."""
    return float(parts.sum() / wholes.sum())


def classified(
    decisions: Decisions, labels: NDArray[np.int64], names: Sequence[str], metrics: tuple[Metric, ...]
) -> Evaluation:
    """Metrics of decisions about items of the labels [N], with each class and the calibration."""
    return Evaluation(metrics, by_class(decisions.classes, labels, names), calibration(decisions, labels))


def by_class(classes: NDArray[np.int64], labels: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassScores, ...]:
    """How well each class is told, of what is decided [N] about items of the labels [N]."""
    scores = precision_recall_fscore_support(labels, classes, labels=range(len(names)), average=None, zero_division=0.0)
    return tuple(
        ClassScores(label=name, n=int(n), precision=_rounded(precision), recall=_rounded(recall), f1=_rounded(f1))
        for name, precision, recall, f1, n in zip(names, *scores, strict=True)
    )


def calibration(decisions: Decisions, labels: NDArray[np.int64]) -> Calibration:
    """Confidence and accuracy in bins of equal width."""
    right = decisions.classes == labels
    places = np.minimum((decisions.confidences * BINS).astype(np.int64), BINS - 1)
    bins = [
        CalibrationBin(
            confidence=_rounded(decisions.confidences[inside].mean()),
            accuracy=_rounded(right[inside].mean()),
            n=int(inside.sum()),
        )
        for inside in (places == place for place in np.unique(places))
    ]
    gaps = np.bincount(places, decisions.confidences - right)  # summed over each bin
    return Calibration(error=_rounded(np.abs(gaps).sum() / len(right)), bins=tuple(bins))


def _hanley_mcneil(auc: float, positives: int, negatives: int) -> float:
    """The standard error of an area under the ROC curve."""
    two_positives, two_negatives = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (two_positives - auc**2) + (negatives - 1) * (two_negatives - auc**2)
    return math.sqrt(max(0.0, variance) / (positives * negatives))


def _rounded(value: float) -> float:
    return round(float(value), 4)
