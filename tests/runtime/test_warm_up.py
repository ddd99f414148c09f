"""A warm-up runs no batch that will never be formed, and says how large batches may be."""

from __future__ import annotations

import pytest

from services.runtime.config import TensorSpec
from services.runtime.warm_up import warm_up
from tests.runtime import fakes

ROW = (TensorSpec("x", "FP32", (3,)),)


@pytest.mark.parametrize(
    ("per_row", "runs", "rows"),
    [
        pytest.param(0.005, [1, 8, 8], 8, id="eight rows take longer than wanted: no larger batch runs"),
        pytest.param(0.0006, [1, 8, 8, 16, 16], 16, id="sixteen rows take the wanted time"),
        pytest.param(0.00001, [1, 8, 8, 64, 64], 64, id="the largest batch of the config is fast enough"),
        pytest.param(0.0, [1, 8, 8, 64, 64], 64, id="a further row costs nothing"),
    ],
)
def test_batches_run_up_to_the_largest_that_takes_the_wanted_time(per_row: float, runs: list[int], rows: int) -> None:
    clock = fakes.Clock()
    runner = fakes.Runner(clock, fixed=0.002, per_row=per_row)
    largest, seconds = warm_up(fakes.graph_config(64, inputs=ROW), runner, 60.0, 0.01, clock)
    assert (runner.runs, largest) == (runs, rows)
    assert seconds == pytest.approx(per_row)


def test_one_run_that_had_to_wait_for_a_core_does_not_make_batches_small() -> None:
    clock = fakes.Clock()
    runner = fakes.Runner(clock, per_row=0.0001)

    def wait_once() -> None:
        if len(runner.runs) == 2:
            clock.now += 1.0

    runner.during = wait_once
    largest, seconds = warm_up(fakes.graph_config(64, inputs=ROW), runner, 60.0, 0.01, clock)
    assert largest == 64
    assert seconds == pytest.approx(0.0001)


def test_without_a_wanted_time_the_largest_batch_runs() -> None:
    clock = fakes.Clock()
    runner = fakes.Runner(clock, per_row=1.0)
    assert warm_up(fakes.graph_config(32, inputs=ROW), runner, 60.0, float("inf"), clock) == (32, pytest.approx(1.0))
    assert runner.runs[-1] == 32


@pytest.mark.parametrize("most", [0, 1])
def test_a_graph_without_batches_runs_once(most: int) -> None:
    clock = fakes.Clock()
    runner = fakes.Runner(clock, per_row=1.0)
    inputs = ROW if most else (TensorSpec("x", "FP32", (1, 3)),)
    assert warm_up(fakes.graph_config(most, inputs=inputs), runner, 60.0, 0.01, clock) == (most, 0.0)
    assert runner.runs == [1]


def test_rows_of_variable_length_bound_no_batch() -> None:
    clock = fakes.Clock()
    runner = fakes.Runner(clock, per_row=1.0)
    assert warm_up(fakes.graph_config(16), runner, 60.0, 0.01, clock) == (16, 0.0)
    assert runner.runs == [1, 16]
