"""Texts with a label each, in fixed splits by `sha1(text) % 10`: 0 = test, 1 = validation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data.hashing import bucket

Item: TypeAlias = tuple[str, int, str]
"""A text, its label, and where it came from."""


@dataclass(frozen=True)
class Split:
    """Texts, their labels int64 [N], and where each came from."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class LabelledTexts:
    """A data set; `labels` are the names of its classes."""

    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split


def split(labels: tuple[str, ...], items: Iterable[Item]) -> LabelledTexts:
    """Distinct texts, by the hash of each."""
    distinct = list({item[0]: item for item in items}.values())
    return _parts(labels, distinct, [bucket(text, 10) for text, _, _ in distinct])


def load_sliver(path: Path) -> LabelledTexts:
    """The few texts of a file, all of them of a training split: every eighth stands in for the test split."""
    stored = json.loads(path.read_text())
    items: list[Item] = [(text, label, source) for text, label, source in stored["items"]]
    return _parts(tuple(stored["labels"]), items, [i % 8 for i in range(len(items))])


def _parts(labels: tuple[str, ...], items: Sequence[Item], buckets: Sequence[int]) -> LabelledTexts:
    parts = []
    for wanted in (range(2, 10), (1,), (0,)):
        texts, classes, sources = zip(*(x for x, b in zip(items, buckets, strict=True) if b in wanted), strict=True)
        parts.append(Split(texts, np.array(classes, dtype=np.int64), sources))
    return LabelledTexts(labels, *parts)
