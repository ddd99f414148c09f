"""Made-up tables, and the real ones that nothing is learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data import tables
from training.methods.synthetic_tables import MOST_CLASSES, Prior, Sizes, Tables

pytestmark = pytest.mark.unit
SMALL = Sizes(examples=(12, 40), features=(2, 12), queries=16, rows=300)


def test_the_same_seed_draws_the_same_tables() -> None:
    first, second, other = (Prior(SMALL, *seed).batch() for seed in ((1, 2), (1, 2), (1, 3)))
    assert first.labels.equal(second.labels)
    np.testing.assert_array_equal(first.rows.numpy(), second.rows.numpy())
    assert first.rows.shape != other.rows.shape or not first.labels.equal(other.labels)


def test_tables_have_the_sizes_that_are_asked_for() -> None:
    prior = Prior(SMALL, 0)
    for drawn in (prior.batch() for _ in range(30)):
        tables_, rows, features = drawn.rows.shape
        assert rows == drawn.examples + SMALL.queries
        assert SMALL.features[0] <= features <= SMALL.features[1]
        assert drawn.labels.shape == (tables_, rows)
        assert 0 <= int(drawn.labels.min()) <= int(drawn.labels.max()) < MOST_CLASSES
        assert not drawn.rows.isinf().any()


def test_classes_can_be_told_from_the_columns() -> None:
    """By the nearest example, in most tables better than by the most frequent class."""
    better = []
    prior = Prior(SMALL, 5)
    for drawn in (prior.batch() for _ in range(20)):
        rows = drawn.rows.nan_to_num(0)
        nearest = torch.cdist(rows[:, drawn.examples :], rows[:, : drawn.examples]).argmin(2)
        said = drawn.labels[:, : drawn.examples].gather(1, nearest)
        frequent = drawn.labels[:, : drawn.examples].mode(1).values[:, None]
        counts = (drawn.asked >= 0).sum(1)
        gain = ((said == drawn.asked).sum(1) - (frequent == drawn.asked).sum(1)) / counts
        better += (gain > 0).tolist()
    assert np.mean(better) > 0.5


def test_classes_without_an_example_are_not_asked_for() -> None:
    drawn = Tables(torch.zeros(1, 5, 1), torch.tensor([[0, 1, 1, 2, 0]]), 3)
    assert drawn.asked.tolist() == [[-1, 0]]


def test_splits_of_real_tables_are_fixed_and_have_every_class() -> None:
    for table in tables.load():
        splits, again = list(table.splits(2, 512)), list(table.splits(2, 512))
        for (shown, asked), same in zip(splits, again, strict=True):
            np.testing.assert_array_equal(shown, same[0])
            assert not set(shown) & set(asked)
            assert len(shown) + len(asked) == len(table)
            assert set(table.labels[shown]) == set(table.labels)
        assert not np.array_equal(splits[0][0], splits[1][0])


def test_numbers_become_classes_by_their_median() -> None:
    for table in tables.load()[4:]:
        assert abs(table.labels.mean() - 0.5) < 0.11
