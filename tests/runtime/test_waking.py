"""When an idle instance is woken: which requests its batch then has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from services.runtime.scheduler import Scheduler
from tests.runtime.fakes import FOREVER, Clock, Runner, column, graph_config
from tests.waiting import WAIT, wait_until

pytestmark = pytest.mark.unit
ROWS = 8


@pytest.fixture
def runner() -> Runner:
    return Runner(Clock())


@pytest.fixture
def scheduler(runner: Runner) -> Iterator[Scheduler]:
    """With one instance, which is idle."""
    scheduler = Scheduler(graph_config(ROWS), 1, runner)
    scheduler.start()
    try:
        wait_until(lambda: scheduler.idle == 1)
        yield scheduler
    finally:
        scheduler.close()
        scheduler.join(WAIT)


async def one_each_turn(scheduler: Scheduler, count: int) -> list[float]:
    """The answers to that many requests of one row, sent in successive turns of the event loop."""
    calls = []
    for number in range(count):
        calls.append(asyncio.create_task(scheduler.run(column(number), FOREVER, 0, 0.0)))
        await asyncio.sleep(0)
    return [float(outputs[0][0, 0]) for outputs in await asyncio.gather(*calls)]


def test_requests_of_successive_turns_run_together(scheduler: Scheduler, runner: Runner) -> None:
    assert asyncio.run(one_each_turn(scheduler, ROWS - 1)) == [2 * number for number in range(ROWS - 1)]
    assert runner.runs == [ROWS - 1]


def test_a_full_batch_waits_for_no_further_turn(scheduler: Scheduler, runner: Runner) -> None:
    assert len(asyncio.run(one_each_turn(scheduler, 4 * ROWS))) == 4 * ROWS
    assert runner.runs[0] == ROWS
    assert sum(runner.runs) == 4 * ROWS


def test_a_lone_request_is_answered(scheduler: Scheduler, runner: Runner) -> None:
    assert asyncio.run(one_each_turn(scheduler, 1)) == [0]
    assert runner.runs == [1]
