"""The survey table: columns, fixed split, split by state."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import SLIVERS
from training.data import covid

pytestmark = pytest.mark.unit


def test_columns_and_fixed_split() -> None:
    data = covid.read(SLIVERS / "covid_regressor.csv")
    assert data.rows.features.shape == (120, 116)
    assert len(set(data.names)) == 116
    assert (data.names[covid.STATES], data.names[-1], data.target) == ("cli", "worried_finances.4", "tested_positive.4")
    assert (len(data.train), len(data.validation), len(data.test)) == (72, 24, 24)
    np.testing.assert_array_equal(data.test.targets, data.rows.targets[::5])


def test_split_by_state_shares_no_state() -> None:
    train, test = covid.read(SLIVERS / "covid_regressor.csv").by_state()
    states = [set(s.features[:, : covid.STATES].argmax(1).tolist()) for s in (train, test)]
    assert not states[0] & states[1]
    assert len(train) + len(test) == 120
