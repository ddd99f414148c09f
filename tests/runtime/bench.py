"""A scheduler that a test drives, on the test's own clock; of both kinds, in Python and in C++."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from services.runtime.config import GraphConfig
from services.runtime.cost import RunCost
from services.runtime.graph import Array
from services.runtime.scheduler import Scheduler
from tests.runtime.fakes import FOREVER, Clock, Loop, Runner, column, graph_config

try:
    from services.runtime.native_scheduler import NativeScheduler
except ImportError:
    NATIVE = pytest.param(None, marks=pytest.mark.skip("needs native: make native"))
else:
    NATIVE = pytest.param(NativeScheduler, id="native")

SCHEDULERS = [pytest.param(Scheduler, id="python"), NATIVE]
Task = asyncio.Task[list[Array]]


class Bench:
    """A scheduler without threads.

    Args:
        kind: the class of the scheduler.
        config: of its graph; else `options` are the arguments of `graph_config`.
        runner: the class of its graph.
    """

    def __init__(
        self,
        kind: Callable[..., Any],
        config: GraphConfig | None = None,
        *,
        fixed: float = 0.0,
        per_row: float = 0.0,
        per_place: float = 0.0,
        rows: int | None = None,
        runner: type[Runner] = Runner,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.loop, self.other_loop = Loop(self.clock), Loop(self.clock)
        self.runner = runner(self.clock, fixed, per_row, per_place=per_place)
        self.scheduler = kind(config or graph_config(**options), 1, self.runner, RunCost(), self.clock, rows)

    def submit(
        self,
        arrays: tuple[Array, ...],
        patience: float = FOREVER,
        priority: int = 0,
        loop: Loop | None = None,
        max_wait: float = 0.0,
    ) -> Task:
        deadline = self.clock.now + patience
        task: Task = (loop or self.loop).create_task(self.scheduler.run(arrays, deadline, priority, max_wait))
        self.settle()
        return task

    def settle(self) -> None:
        self.loop.settle()
        self.other_loop.settle()

    def close(self) -> None:
        for loop in (self.loop, self.other_loop):
            assert not loop.errors  # such as a future that is resolved twice
            loop.close()

    def run(self, batches: int = 10**9) -> int:
        """Take and execute that many batches, or all there are; how many there were."""
        for done in range(batches):
            if not (batch := self.scheduler.take()):
                self.settle()  # those who were late are told
                return done
            self.scheduler.execute(batch)
            self.settle()
        return batches

    def learn(self, runs: int = 20) -> None:
        """Let single rows run."""
        for _ in range(runs):
            self.submit(column(1))
            self.run()

    def seconds(self, batches: int, places: int) -> float:
        """What so many runs would take, as far as the scheduler has learnt."""
        cost = self.scheduler._cost if isinstance(self.scheduler, Scheduler) else self.scheduler.queue
        estimate: float = cost.seconds(batches, places)
        return estimate
