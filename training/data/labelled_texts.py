"""Texts with a label each, in fixed splits by `sha1(text) % 10`: 0 = test, 1 = validation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.hashing import bucket


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


def split(labels: tuple[str, ...], items: Iterable[tuple[str, int, str]]) -> LabelledTexts:
    """Distinct `(text, label, source)` by the hash of the text, in their order."""
    parts: dict[int, list[tuple[str, int, str]]] = {}
    for item in {item[0]: item for item in items}.values():
        parts.setdefault(bucket(item[0], 10), []).append(item)
    test, validation = parts.pop(0, []), parts.pop(1, [])
    return LabelledTexts(labels, _split(list(chain(*parts.values()))), _split(validation), _split(test))


def load_sliver(path: Path) -> LabelledTexts:
    """The few texts of a file."""
    stored = json.loads(path.read_text())
    return split(tuple(stored["labels"]), map(tuple, stored["items"]))


def _split(items: list[tuple[str, int, str]]) -> Split:
    texts, labels, sources = zip(*items, strict=True)
    return Split(texts, np.array(labels, dtype=np.int64), sources)
