"""The course's own HW1 data (2022): five-day windows of the COVID-19 Trends and Impact Survey in 37 US states.

A row holds its state (one-hot) and 16 survey features of each of five consecutive days; the target is the last of them,
the share of positive tests on the fifth day, in percent. The fixed split is by row number: `id % 5` = 0 is test, = 1
validation. Windows of one state overlap, so any random split leaks a little; `by_state` holds out whole states instead.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.fetch import GitHub

SOURCE = GitHub(
    name="anson60214/HW1Regression/Regression/covid.train.csv",
    version="e2a6e0b935f1283a1c2fd3e4d665e0257820f055",
    sha256="298378b3db6a233e6cba686533c55844072b7c84e5e2eecf830a9e86a8dce475",
    licence="COVID-19 Trends and Impact Survey, Delphi Group",
)
STATES, DAYS, DAILY = 37, 5, 16


@dataclass(frozen=True)
class Split:
    """Features float32 [N, 116] and targets float32 [N], in percent."""

    features: NDArray[np.float32]
    targets: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.targets)

    def __add__(self, other: Split) -> Split:
        return Split(np.concatenate([self.features, other.features]), np.concatenate([self.targets, other.targets]))


@dataclass(frozen=True)
class Covid:
    """The table with its row numbers, and the names of its columns."""

    names: tuple[str, ...]
    target: str
    ids: NDArray[np.int64]
    rows: Split

    @property
    def train(self) -> Split:
        return self.where(self.ids % 5 > 1)

    @property
    def validation(self) -> Split:
        return self.where(self.ids % 5 == 1)

    @property
    def test(self) -> Split:
        return self.where(self.ids % 5 == 0)

    def by_state(self) -> tuple[Split, Split]:
        """Training and test rows where every fifth state, in the order of the columns, is test."""
        held_out = self.rows.features[:, 0:STATES:5].any(axis=1)
        return self.where(~held_out), self.where(held_out)

    def where(self, mask: Any) -> Split:
        """The rows where the boolean mask [N] holds."""
        return Split(self.rows.features[mask], self.rows.targets[mask])


def load() -> Covid:
    """The whole data set, fetched on first use (2.5 MB)."""
    return read(SOURCE.fetch() / "covid.train.csv")


def read(path: Path) -> Covid:
    """Read a table of this schema: id, 37 states, 16 features of 5 days."""
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    seen: Counter[str] = Counter()
    names = []
    for name in header[1:]:  # names repeat for each day; number them as pandas does
        names.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    table = np.array(lines, dtype=np.float64)
    rows = Split(table[:, 1:-1].astype(np.float32), table[:, -1].astype(np.float32))
    return Covid(tuple(names[:-1]), names[-1], table[:, 0].astype(np.int64), rows)
