"""Texts with a label each, in fixed splits by `sha1(text) % 10`: 0 = test, 1 = validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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

    def items(self) -> Iterator[Item]:
        """Each text with its label and source."""
        return zip(self.texts, self.labels.tolist(), self.sources, strict=True)


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
    parts: dict[str, list[Item]] = {name: [] for name in ("train", "validation", "test")}
    for item in distinct:
        parts[{0: "test", 1: "validation"}.get(bucket(item[0], 10), "train")].append(item)
    return LabelledTexts(labels, *map(split_of, parts.values()))


def split_of(items: Iterable[Item]) -> Split:
    """Items as a split."""
    texts, classes, sources = zip(*items, strict=True)
    return Split(texts, np.array(classes, dtype=np.int64), sources)
