"""Real tables with classes that come inside scikit-learn: what a learner of tables is tested on, never what it learns.

Two of them have numbers where classes should be; these become classes by their median: a year's progress of diabetes,
and the waist of linnerud's twenty athletes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from artifacts.card import DataSource
from training.data.fetch import sha256_file

SPLITS = 20
LARGEST_SHARE = 0.5  # of a table, that are examples


@dataclass(frozen=True)
class Table:
    """Rows float32 [N, F] and their classes int64 [N]."""

    name: str
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def splits(self, count: int, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Row numbers of examples, half of the table or `most`, and of all other rows; always the same splits."""
        examples = min(int(LARGEST_SHARE * len(self)), most)
        yield from StratifiedShuffleSplit(count, train_size=examples, random_state=0).split(self.rows, self.labels)


def load() -> tuple[Table, ...]:
    """Every table."""
    return (
        *(_table(name) for name in ("iris", "wine", "breast_cancer", "digits")),
        _table("diabetes", target=0),
        _table("linnerud", target=1),
    )


def _table(name: str, target: int | None = None) -> Table:
    """A table of scikit-learn's; `target` is the number of the one whose median parts it in two classes."""
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    values = np.asarray(bunch.target)
    if target is not None:
        values = values.reshape(len(values), -1)[:, target]
        values = values > np.median(values)
    names = tuple(map(str, bunch.feature_names))
    return Table(name, bunch.data.astype(np.float32), values.astype(np.int64), names)


def card_entry(tables: tuple[Table, ...]) -> DataSource:
    """The tables as a card names them, by the file of scikit-learn that reads them."""
    return DataSource(
        source="pypi:scikit-learn/datasets (" + ", ".join(table.name for table in tables) + ")",
        version=version("scikit-learn"),
        sha256=sha256_file(Path(sklearn.datasets.__file__).with_name("_base.py")),
        licence="BSD-3-Clause",
        train=0,
        validation=0,
        test=sum(map(len, tables)),
    )
