"""The scheduler's arithmetic of time, by a clock that moves with the runs alone."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from services.errors import DeadlineExceeded, ResourceExhausted
from services.runtime.config import read_config
from services.runtime.graph import Array
from services.runtime.scheduler import CAUTION, Scheduler
from tests.graphs import burn_config
from tests.waiting import WAIT, wait_until

pytestmark = pytest.mark.unit

SECONDS_PER_ROW = 2.0
ROW = np.zeros((1, 1), np.float32)


class Runner:
    """A graph whose runs end one at a time, when the test says so, and take SECONDS_PER_ROW each row."""

    provider = "test"

    def __init__(self) -> None:
        self.now, self.runs = 1000.0, 0
        self._may_end = threading.Semaphore(0)

    def options(self) -> SimpleNamespace:
        return SimpleNamespace(terminate=False)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: object) -> list[Array]:
        self.runs += 1
        assert self._may_end.acquire(timeout=WAIT)
        (rows,) = inputs.values()
        self.now += SECONDS_PER_ROW * len(rows)
        return [rows]

    def end(self, runs: int) -> None:
        self._may_end.release(runs)

    def close(self) -> None:
        """There is nothing to free."""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner()
    monkeypatch.setattr("services.runtime.scheduler.time", SimpleNamespace(monotonic=lambda: runner.now))
    return runner


@pytest.fixture
def scheduler(runner: Runner, tmp_path: Path) -> Iterator[Scheduler]:
    (tmp_path / "config.pbtxt").write_text(burn_config(1))
    scheduler = Scheduler(read_config(tmp_path), 1, [runner])
    yield scheduler
    scheduler.close()


async def test_what_the_backlog_would_make_late_is_refused_at_the_door(runner: Runner, scheduler: Scheduler) -> None:
    def ask(deadline: float = math.inf) -> asyncio.Task[list[Array]]:
        return asyncio.create_task(scheduler.run((ROW,), deadline, priority=0, max_wait=0))

    runner.end(1)
    await ask()  # from which it knows how long a row takes
    waiting = [ask() for _ in range(4)]
    await asyncio.to_thread(wait_until, lambda: runner.runs == 2)
    seconds = 5 * SECONDS_PER_ROW  # the four, and its own
    hurried = ask(runner.now + CAUTION * seconds - 0.1)
    with pytest.raises(ResourceExhausted) as refused:
        await hurried
    assert refused.value.retry_after == seconds
    waiting.append(ask(runner.now + CAUTION * seconds + 0.1))
    runner.end(5)
    assert [len(answer) for answer in await asyncio.gather(*waiting)] == [1] * 5


async def test_what_became_late_in_the_queue_is_not_run(runner: Runner, scheduler: Scheduler) -> None:
    running = asyncio.create_task(scheduler.run((ROW,), math.inf, priority=0, max_wait=0))
    await asyncio.to_thread(wait_until, lambda: runner.runs == 1)
    late = asyncio.create_task(scheduler.run((ROW,), runner.now + SECONDS_PER_ROW / 2, priority=0, max_wait=0))
    await asyncio.sleep(0)
    runner.end(1)
    await running
    with pytest.raises(DeadlineExceeded):
        await late
    assert runner.runs == 1
