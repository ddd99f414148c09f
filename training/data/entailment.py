"""Pairs of sentences: whether the first entails the second, contradicts it or neither.

SNLI (Bowman et al., "A large annotated corpus for learning natural language inference", 2015), whose two small files
e-SNLI's repository holds (Camburu et al., "e-SNLI", 2018). The development file trains here, but for the pairs of a
tenth of its captions, which validate; the test file is the test split, as in the literature.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data.fetch import GitHubFiles
from training.data.hashing import bucket

LABELS = ("entailment", "neutral", "contradiction")
Row: TypeAlias = tuple[str, str, str]
"""A premise, a hypothesis and the name of their class."""


SOURCE = GitHubFiles(
    name="OanaMariaCamburu/e-SNLI/dataset/eSNLI",
    version="7b585a3f077fdea899780eb0473940522ae44a2e",
    sha256="cd07c42d6a79329b4394c2ff2fcdba4d46452f677151c13bf1e9b79bf4cce156",
    licence="CC BY-SA 4.0 (SNLI)",
    files=tuple(f"{part}.{split}" for split in ("dev", "test") for part in ("s1", "s2", "labels")),
)


@dataclass(frozen=True)
class Pairs:
    """Premises and hypotheses, and the class int64 [N] of each pair, by its place in `LABELS`."""

    premises: tuple[str, ...]
    hypotheses: tuple[str, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Entailment:
    """The pairs in their three splits."""

    train: Pairs
    validation: Pairs
    test: Pairs


def load() -> Entailment:
    """Everything, fetched on first use (2.5 MB)."""
    directory = SOURCE.fetch()
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row in read(directory, "dev"):
        parts[bucket(row[0], 10) == 1].append(row)
    return Entailment(pairs_of(parts[0]), pairs_of(parts[1]), pairs_of(read(directory, "test")))


def captions() -> list[str]:
    """The premises of the development set, in its order: captions of photos, each several times."""
    return [premise for premise, *_ in read(SOURCE.fetch(), "dev")]


def load_sliver(path: Path) -> Entailment:
    """A committed sliver of training pairs, split 80/10/10 in turns."""
    pairs: list[Row] = [tuple(pair) for pair in json.loads(path.read_text())]
    return Entailment(
        pairs_of([pair for i, pair in enumerate(pairs) if i % 10 > 1]), pairs_of(pairs[1::10]), pairs_of(pairs[::10])
    )


def read(directory: Path, split: str) -> Iterator[Row]:
    """The pairs of one of the files' splits, in their order, in words and marks with spaces between them."""
    columns = ((directory / f"{part}.{split}").read_text().splitlines() for part in ("s1", "s2", "labels"))
    return zip(*columns, strict=True)


def pairs_of(rows: Iterable[Row]) -> Pairs:
    """Premises, hypotheses and names of classes as pairs."""
    premises, hypotheses, classes = zip(*rows, strict=True)
    return Pairs(premises, hypotheses, np.array([LABELS.index(name) for name in classes], dtype=np.int64))
