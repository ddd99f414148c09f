"""Who waits for whom in front of a graph, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from services.runtime.cost import RunCost
from services.runtime.graph import Array
from services.runtime.scheduler import Batch, Scheduler
from tests.runtime.fakes import FOREVER, Clock, Loop, Runner, column, graph_config

Task = asyncio.Task[list[Array]]


class Bench:
    """A scheduler without threads."""

    def __init__(self, *, fixed: float = 0.0, per_row: float = 0.0, **config: Any) -> None:
        self.clock = Clock()
        self.loop, self.other_loop = Loop(self.clock), Loop(self.clock)
        self.runner = Runner(self.clock, fixed, per_row)
        self.scheduler = Scheduler(graph_config(**config), 1, self.runner, RunCost(), self.clock)

    def submit(
        self, arrays: tuple[Array, ...], patience: float = FOREVER, priority: int = 0, loop: Loop | None = None
    ) -> Task:
        deadline = self.clock.now + patience
        task = (loop or self.loop).create_task(self.scheduler.run(arrays, deadline, priority, 0.0))
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


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.close()


def test_a_fixed_cost_is_paid_by_the_batch_and_refuses_nobody(benches: list[Bench]) -> None:
    bench = Bench(fixed=0.005, max_batch_size=64)
    benches.append(bench)
    bench.learn()
    tasks = [bench.submit(column(i), patience=0.25) for i in range(200)]
    assert bench.run() == 4
    assert [task.result()[0].item() for task in tasks] == [2 * i for i in range(200)]


def test_what_the_backlog_would_make_late_is_refused_at_the_door(benches: list[Bench]) -> None:
    bench = Bench(fixed=0.001, per_row=0.01, max_batch_size=4)
    benches.append(bench)
    for rows in (1, 4) * 10:
        bench.submit(column(*range(rows)))
        bench.run()
    patient = [bench.submit(column(1, 2, 3, 4)) for _ in range(5)]  # 41 ms each
    hurried = [bench.submit(column(1), patience=0.1) for _ in range(3)]
    errors = [task.exception() for task in hurried]
    assert all(isinstance(error, ResourceExhausted) and error.retry_after for error in errors)
    in_time = bench.submit(column(1), patience=0.5)
    bench.run()
    assert all(task.result() for task in (*patient, in_time))


def test_twenty_thousand_rows_do_not_refuse_those_who_are_answered_between_them(benches: list[Bench]) -> None:
    bench = Bench(fixed=0.001, per_row=0.0001, max_batch_size=8)
    benches.append(bench)
    bench.learn()
    large = bench.submit(column(*range(20_000)))
    bench.run(100)
    small = [bench.submit(column(i), patience=0.02) for i in range(5)]
    bench.run(3)
    assert [task.result()[0].item() for task in small] == [0, 2, 4, 6, 8]
    assert not large.done()
    bench.run()
    assert (large.result()[0][:, 0] == 2 * np.arange(20_000)).all()


def test_runs_that_fail_or_are_abandoned_teach_nothing(benches: list[Bench]) -> None:
    bench = Bench(fixed=0.02, max_batch_size=4)
    benches.append(bench)
    bench.learn()
    for _ in range(20):
        task = bench.submit(column(1))

        def leave(task: Task = task) -> None:
            task.cancel()
            bench.settle()

        bench.runner.during = leave
        bench.run()
        bench.runner.during = lambda: None
        refused = bench.submit(column(-1))
        bench.run()
        assert isinstance(refused.exception(), InvalidArgument)
    assert bench.scheduler._cost.seconds(1, 1) == pytest.approx(0.02)


@pytest.mark.parametrize("bad", [0, 17, 63])
def test_one_bad_request_of_64_is_told_from_the_others_in_some_runs(benches: list[Bench], bad: int) -> None:
    bench = Bench(max_batch_size=64)
    benches.append(bench)
    tasks = [bench.submit(column(-1 if i == bad else i)) for i in range(64)]
    bench.run()
    assert len(bench.runner.runs) <= 1 + 2 * 6
    for i, task in enumerate(tasks):
        if i == bad:
            assert isinstance(task.exception(), InvalidArgument)
        else:
            assert task.result()[0].item() == 2 * i


def test_a_batch_whose_callers_left_is_not_told_apart(benches: list[Bench]) -> None:
    bench = Bench(max_batch_size=64)
    benches.append(bench)
    tasks = [bench.submit(column(-1)) for _ in range(64)]

    def leave() -> None:
        if len(bench.runner.runs) == 3:
            for task in tasks:
                task.cancel()
            bench.settle()

    bench.runner.during = leave
    bench.run()
    assert len(bench.runner.runs) == 3


def test_a_full_batch_of_a_low_priority_is_not_shut_out_by_single_rows_of_a_high_one(benches: list[Bench]) -> None:
    bench = Bench(max_batch_size=4, priorities=2)
    benches.append(bench)
    low = bench.submit(column(1, 2, 3, 4), priority=2)
    for _ in range(3):
        bench.submit(column(1), priority=1)
        bench.run(1)
    assert low.done()


def test_one_batch_answers_callers_of_several_event_loops(benches: list[Bench]) -> None:
    bench = Bench(max_batch_size=4)
    benches.append(bench)
    tasks = [bench.submit(column(i), loop=loop) for i, loop in enumerate([bench.loop, bench.other_loop] * 2)]
    assert bench.run() == 1
    assert [task.result()[0].item() for task in tasks] == [0, 2, 4, 6]


def test_a_closed_scheduler_finishes_what_is_queued_and_takes_no_more(benches: list[Bench]) -> None:
    bench = Bench(max_batch_size=4)
    benches.append(bench)
    queued = bench.submit(column(1))
    bench.scheduler.close()
    refused = bench.submit(column(1))
    bench.run()
    assert queued.result()
    assert isinstance(refused.exception(), Unavailable)


@pytest.mark.parametrize(("fixed", "per_row"), [(0.005, 0.0), (0.001, 0.002), (0.0, 0.003)])
def test_cost_is_told_apart_into_fixed_and_per_row(fixed: float, per_row: float) -> None:
    cost = RunCost()
    for rows in (1, 2, 64, 3, 1, 32) * 20:
        cost.observe(rows, fixed + per_row * rows)
    assert cost.seconds(3, 100) == pytest.approx(3 * fixed + 100 * per_row, rel=0.05)


def test_cost_of_single_rows_alone_is_extrapolated_by_what_the_warm_up_measured() -> None:
    cost = RunCost(per_row=0.001)
    for _ in range(100):
        cost.observe(1, 0.003)
    assert cost.seconds(1, 64) == pytest.approx(0.002 + 64 * 0.001)


def test_one_slow_run_is_forgotten() -> None:
    cost = RunCost()
    cost.observe(64, 5.0)
    for _ in range(1000):
        cost.observe(1, 0.001)
    assert cost.seconds(1, 64) < 0.01


@dataclass
class Caller:
    """A request of the machine's, with how long it may wait at most.

    Args:
        level: its priority, 1 = first.
        most_batches: that may be taken up to its last row's, if nothing of a higher priority comes.
        taken_before, high_before: batches taken, and requests of the first priority, before it came.
    """

    task: Task
    values: Array
    level: int
    taken_before: int
    high_before: int
    most_batches: float = FOREVER

    @property
    def bad(self) -> bool:
        return bool((self.values < 0).any())


class Scheduling(RuleBasedStateMachine):
    """Two instances, two priorities, two event loops, batches of four; callers come, go, send bad rows and large
    requests."""

    ROWS, INSTANCES = 4, 2

    @initialize(fixed=st.sampled_from([0.0, 0.1]), per_row=st.sampled_from([0.0, 0.05]))
    def begin(self, fixed: float, per_row: float) -> None:
        self.bench = Bench(
            fixed=fixed,
            per_row=per_row,
            max_batch_size=self.ROWS,
            priorities=2,
            instances=self.INSTANCES,
            queue_size=20,
        )
        self.scheduler, self.queue = self.bench.scheduler, self.bench.scheduler._queue
        self.callers: list[Caller] = []
        self.running: list[Batch] = []
        self.number = self.taken = self.high = 0
        self.first_taken: dict[tuple[int, int], float] = {}

    @rule(
        rows=st.integers(1, 11),
        width=st.sampled_from([1, 1, 2]),
        priority=st.sampled_from([1, 2]),
        patience=st.sampled_from([FOREVER, FOREVER, 0.3, 3.0]),
        bad=st.sampled_from([False, False, False, True]),
        elsewhere=st.booleans(),
    )
    def submit(self, rows: int, width: int, priority: int, patience: float, bad: bool, elsewhere: bool) -> None:
        values = np.arange(self.number, self.number + rows, dtype=np.float32) + 1
        self.number += rows
        if bad:
            values[rows // 2] *= -1
        before = len(self.queue)
        loop = self.bench.other_loop if elsewhere else self.bench.loop
        task = self.bench.submit(column(*values, width=width), patience, priority, loop)
        caller = Caller(task, values, priority, self.taken, self.high)
        if len(self.queue) > before and rows <= self.ROWS:
            # What the door counts is what is taken before it: asked of the queue as it was.
            (request,) = [r for r in self.queue._levels[priority - 1] if r.arrays[0][0, 0] == values[0]]
            self.queue.remove(request)
            caller.most_batches = self.queue.work(request).batches + 1
            self.queue.add(request)
        self.high += priority == 1
        self.callers.append(caller)

    @precondition(lambda self: len(self.running) < self.INSTANCES)
    @rule()
    def take(self) -> None:
        if batch := self.scheduler.take():
            assert 0 < batch.rows <= self.ROWS
            assert len({part.request.shapes for part in batch.parts}) == 1
            self.running.append(batch)
            self.taken += 1
            for part in batch.parts:
                if part.start == 0:
                    self._check_order(part.request)
        self.bench.settle()

    def _check_order(self, request: Any) -> None:
        """First come, first served, within a priority and among those that can run together."""
        key, place = (request.level, request.arrays[0].shape[1]), abs(request.arrays[0][0, 0])
        assert self.first_taken.get(key, 0) < place
        self.first_taken[key] = place

    @precondition(lambda self: self.running)
    @rule(first=st.booleans())
    def execute(self, first: bool) -> None:
        self.scheduler.execute(self.running.pop(0 if first else -1))
        self.bench.settle()

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.callers)).task.cancel()
        self.bench.settle()

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds

    @invariant()
    def rows_are_conserved(self) -> None:
        waiting = [request for level in self.queue._levels for request in level]
        assert self.queue.rows == sum(request.left for request in waiting)
        lanes = [lane for lanes in self.queue._lanes for lane in lanes.values()]
        assert sum(lane.left for lane in lanes) == self.queue.rows
        assert sum(lane.turn for lane in lanes) == sum(min(r.left, r.turn) for r in waiting)

    @invariant()
    def cancellation_frees_at_once(self) -> None:
        assert not any(request.future.done() for level in self.queue._levels for request in level)
        assert all(batch.options.terminate for batch in self.running if batch.abandoned)

    @invariant()
    def nobody_waits_longer_than_the_door_said(self) -> None:
        waiting = {abs(r.arrays[0][0, 0]) for level in self.queue._levels for r in level}
        for caller in self.callers:
            undisturbed = caller.level == 1 or caller.high_before == self.high
            if abs(caller.values[0]) in waiting and undisturbed:
                assert self.taken - caller.taken_before < caller.most_batches

    def teardown(self) -> None:
        while self.running:
            self.execute(first=True)
        self.bench.run()
        for caller in self.callers:
            self._check_outcome(caller)
        assert (self.queue.rows, len(self.queue), len(self.scheduler._running)) == (0, 0, 0)
        assert not any(self.queue._lanes)
        self.bench.close()

    def _check_outcome(self, caller: Caller) -> None:
        assert caller.task.done()
        if caller.task.cancelled():
            return
        error = caller.task.exception()
        if error is None:
            assert not caller.bad
            assert (caller.task.result()[0][:, 0] == 2 * caller.values).all()
        else:
            late = isinstance(error, (DeadlineExceeded, ResourceExhausted))
            assert late or (caller.bad and isinstance(error, InvalidArgument))


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
