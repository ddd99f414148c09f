"""Who waits for whom in front of a graph, on a clock of the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from services.runtime.batches import Batching, Kind
from services.runtime.config import Padding, TensorSpec
from services.runtime.cost import RunCost
from services.runtime.graph import Array
from services.runtime.scheduler import Batch, Scheduler
from tests.runtime.bench import SCHEDULERS, Bench, Task
from tests.runtime.fakes import FOREVER, column, graph_config

NewBench = Callable[..., Bench]


@pytest.fixture(params=SCHEDULERS)
def new_bench(request: pytest.FixtureRequest) -> Iterator[NewBench]:
    """Makes benches of each scheduler, from the other arguments of `Bench`."""
    made: list[Bench] = []

    def new(**arguments: Any) -> Bench:
        made.append(Bench(request.param, **arguments))
        return made[-1]

    yield new
    for bench in made:
        bench.close()


def test_a_fixed_cost_is_paid_by_the_batch_and_refuses_nobody(new_bench: NewBench) -> None:
    bench = new_bench(fixed=0.005, max_batch_size=64)
    bench.learn()
    tasks = [bench.submit(column(i), patience=0.25) for i in range(200)]
    assert bench.run() == 4
    assert [task.result()[0].item() for task in tasks] == [2 * i for i in range(200)]


def test_what_the_backlog_would_make_late_is_refused_at_the_door(new_bench: NewBench) -> None:
    bench = new_bench(fixed=0.001, per_row=0.01, max_batch_size=4)
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


def test_a_small_request_waits_for_a_short_run_however_large_the_others_are(new_bench: NewBench) -> None:
    bench = new_bench(per_row=0.002, rows=8, max_batch_size=64)
    large = [bench.submit(column(*range(256))) for _ in range(4)]
    bench.run(4)
    started = bench.clock.now
    small = bench.submit(column(7))
    turns = 4  # those of the others, who came before
    bench.run(turns + 1)
    assert small.result()[0].item() == 14
    assert bench.clock.now - started < (turns + 1) * 0.017
    bench.run()
    assert all(len(task.result()[0]) == 256 for task in large)


def test_twenty_thousand_rows_do_not_refuse_those_who_are_answered_between_them(new_bench: NewBench) -> None:
    bench = new_bench(fixed=0.001, per_row=0.0001, max_batch_size=8)
    bench.learn()
    large = bench.submit(column(*range(20_000)))
    bench.run(100)
    small = [bench.submit(column(i), patience=0.02) for i in range(5)]
    bench.run(3)
    assert [task.result()[0].item() for task in small] == [0, 2, 4, 6, 8]
    assert not large.done()
    bench.run()
    assert (large.result()[0][:, 0] == 2 * np.arange(20_000)).all()


def test_runs_that_fail_or_are_abandoned_teach_nothing(new_bench: NewBench) -> None:
    bench = new_bench(fixed=0.02, max_batch_size=4)
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
    assert bench.seconds(1, 1) == pytest.approx(0.02)


@pytest.mark.parametrize("bad", [0, 17, 63])
def test_one_bad_request_of_64_is_told_from_the_others_in_some_runs(new_bench: NewBench, bad: int) -> None:
    bench = new_bench(max_batch_size=64)
    tasks = [bench.submit(column(-1 if i == bad else i)) for i in range(64)]
    bench.run()
    assert len(bench.runner.runs) <= 1 + 2 * 6
    for i, task in enumerate(tasks):
        if i == bad:
            assert isinstance(task.exception(), InvalidArgument)
        else:
            assert task.result()[0].item() == 2 * i


def test_a_batch_whose_callers_left_is_not_told_apart(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=64)
    tasks = [bench.submit(column(-1)) for _ in range(64)]

    def leave() -> None:
        if len(bench.runner.runs) == 3:
            for task in tasks:
                task.cancel()
            bench.settle()

    bench.runner.during = leave
    bench.run()
    assert len(bench.runner.runs) == 3


def test_a_full_batch_of_a_low_priority_is_not_shut_out_by_single_rows_of_a_high_one(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=4, priorities=2)
    low = bench.submit(column(1, 2, 3, 4), priority=2)
    for _ in range(3):
        bench.submit(column(1), priority=1)
        bench.run(1)
    assert low.done()


def test_one_batch_answers_callers_of_several_event_loops(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=4)
    tasks = [bench.submit(column(i), loop=loop) for i, loop in enumerate([bench.loop, bench.other_loop] * 2)]
    assert bench.run() == 1
    assert [task.result()[0].item() for task in tasks] == [0, 2, 4, 6]


def test_a_closed_scheduler_finishes_what_is_queued_and_takes_no_more(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=4)
    queued = bench.submit(column(1))
    bench.scheduler.close()
    refused = bench.submit(column(1))
    bench.run()
    assert queued.result()
    assert isinstance(refused.exception(), Unavailable)


PADDING = Padding(axis=1, value=0, multiple=4, budget=16)


def test_requests_of_like_lengths_share_a_run_and_each_has_its_own_length_back(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=8, padding=PADDING)
    tasks = [bench.submit(column(width, width=width)) for width in (5, 8, 6)]
    bench.run()
    assert (bench.runner.runs, bench.runner.widths) == ([2, 1], [8, 6])  # 16 places are two rows of up to 8
    for task, width in zip(tasks, (5, 8, 6), strict=True):
        np.testing.assert_array_equal(task.result()[0], np.full((1, width), 2 * width))


def test_lengths_far_apart_are_not_padded_to_one_another(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=8, padding=PADDING)
    tasks = [bench.submit(column(1, width=width)) for width in (4, 5, 1)]
    bench.run()
    assert (bench.runner.runs, bench.runner.widths) == ([2, 1], [4, 5])
    assert [task.result()[0].shape for task in tasks] == [(1, 4), (1, 5), (1, 1)]


def test_a_run_has_no_more_places_than_the_budget_unless_it_is_one_row(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=8, padding=PADDING)
    tasks = [bench.submit(column(1, 2, 3, 4, 5, width=width)) for width in (2, 8, 20)]
    bench.run()
    runs = Counter(zip(bench.runner.widths, bench.runner.runs, strict=True))
    assert runs == {(2, 4): 1, (2, 1): 1, (8, 2): 2, (8, 1): 1, (20, 1): 5}
    assert [task.result()[0][:, 0].tolist() for task in tasks] == [[2, 4, 6, 8, 10]] * 3


def test_outputs_are_cut_on_every_axis_of_any_length(new_bench: NewBench) -> None:
    inputs = (TensorSpec("x", "INT64", (-1,)), TensorSpec("length", "INT64", (1,)))
    outputs = (TensorSpec("attention", "FP32", (-1, -1)), TensorSpec("mean", "FP32", (3,)))
    batching = Batching(graph_config(8, inputs=inputs, outputs=outputs, padding=Padding(1, 7, 4, 64)), 8)
    requests = [(np.full((rows, width), 1), np.full((rows, 1), width)) for rows, width in ((1, 2), (2, 4))]
    assert batching.kind(requests[0]) == batching.kind(requests[1]) == (((4,), (1,)), 8, 4)
    x, length = batching.joined(requests)
    assert x.tolist() == [[1, 1, 7, 7], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert length.tolist() == [[2], [4], [4]]
    attention, mean = np.arange(48.0).reshape(3, 4, 4), np.arange(9.0).reshape(3, 3)
    short, long = batching.parted([attention, mean], [(1, 2), (2, 4)])
    assert short[0].tolist() == [[[0, 1], [4, 5]]]
    assert [part.shape for part in (*short, *long)] == [(1, 2, 2), (1, 3), (2, 4, 4), (2, 3)]


def test_a_long_text_does_not_wait_for_ever_behind_short_ones(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=8, padding=PADDING)
    for _ in range(10):
        bench.submit(column(1, width=3))
    long = bench.submit(column(1, width=30))
    for _ in range(4):
        for _ in range(8):  # twice as many as a run takes
            bench.submit(column(1, width=3))
        bench.run(1)
    assert bench.runner.widths == [3, 3, 3, 30]  # ten came before it, four to a run
    assert long.done()
    bench.run()


def test_what_a_run_costs_counts_its_lengths(new_bench: NewBench) -> None:
    bench = new_bench(fixed=0.001, per_place=0.001, max_batch_size=8, padding=Padding(1, 0, 4, 1024))
    for width in (4, 40) * 10:
        bench.submit(column(1, width=width))
        bench.run()
    patient = [bench.submit(column(1, width=100)) for _ in range(4)]  # 0.4 s in one run
    late = bench.submit(column(1, width=4), patience=0.3)
    in_time = bench.submit(column(1, width=4), patience=0.7)
    bench.run()
    assert isinstance(late.exception(), ResourceExhausted)
    assert all(task.result() for task in (*patient, in_time))


def test_a_full_batch_of_one_kind_is_not_waited_for_any_longer(new_bench: NewBench) -> None:
    bench = new_bench(max_batch_size=8, padding=PADDING, max_queue_delay=1.0)
    tasks = [bench.submit(column(1, width=7))]
    assert bench.run() == 0
    tasks.append(bench.submit(column(1, width=8)))
    assert bench.run() == 1
    assert all(task.done() for task in tasks)


@pytest.mark.parametrize(("fixed", "per_row"), [(0.005, 0.0), (0.001, 0.002), (0.0, 0.003)])
def test_cost_is_told_apart_into_fixed_and_per_row(fixed: float, per_row: float) -> None:
    cost = RunCost()
    for rows in (1, 2, 64, 3, 1, 32) * 20:
        cost.observe(rows, fixed + per_row * rows)
    assert cost.seconds(3, 100) == pytest.approx(3 * fixed + 100 * per_row, rel=0.05)


def test_cost_of_single_rows_alone_is_extrapolated_by_what_the_warm_up_measured() -> None:
    cost = RunCost(per_place=0.001)
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
    width: int
    level: int
    taken_before: int
    high_before: int
    most_batches: float = FOREVER

    @property
    def bad(self) -> bool:
        return bool((self.values < 0).any())


class Scheduling(RuleBasedStateMachine):
    """Two instances, two priorities, two event loops, batches of four rows, with padding or without; callers come, go,
    send bad rows and large requests."""

    ROWS, INSTANCES = 4, 2

    @initialize(
        fixed=st.sampled_from([0.0, 0.1]),
        per_row=st.sampled_from([0.0, 0.05]),
        padding=st.sampled_from([None, Padding(1, 0, multiple=3, budget=12)]),
    )
    def begin(self, fixed: float, per_row: float, padding: Padding | None) -> None:
        self.bench = Bench(
            Scheduler,
            fixed=fixed,
            per_row=per_row,
            max_batch_size=self.ROWS,
            priorities=2,
            instances=self.INSTANCES,
            queue_size=20,
            padding=padding,
        )
        self.padding = padding
        self.scheduler, self.queue = self.bench.scheduler, self.bench.scheduler._queue
        self.callers: list[Caller] = []
        self.running: list[Batch] = []
        self.number = self.taken = self.high = 0
        self.first_taken: dict[tuple[int, Kind], float] = {}

    @rule(
        rows=st.integers(1, 11),
        width=st.sampled_from([1, 1, 2, 3, 5, 7, 14]),
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
        caller = Caller(task, values, width, priority, self.taken, self.high)
        if len(self.queue) > before:
            (request,) = [r for r in self.queue._levels[priority - 1] if r.arrays[0][0, 0] == values[0]]
            if rows <= request.kind.rows:
                # What the door counts is what is taken before it: asked of the queue as it was.
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
            widths = [part.arrays[0].shape[1] for part in batch.parts]
            if self.padding is None:
                assert len(set(widths)) == 1
            else:
                assert max(widths) - min(widths) < self.padding.multiple
                assert batch.rows == 1 or batch.rows * max(widths) <= self.padding.budget
                assert batch.places == batch.rows * max(widths)
            self.running.append(batch)
            self.taken += 1
            for part in batch.parts:
                if part.start == 0:
                    self._check_order(part.request)
        self.bench.settle()

    def _check_order(self, request: Any) -> None:
        """First come, first served, within a priority and among those that can run together."""
        key, place = (request.level, request.kind), abs(request.arrays[0][0, 0])
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
            expected = np.repeat(2 * caller.values[:, None], caller.width, axis=1)
            np.testing.assert_array_equal(caller.task.result()[0], expected)
        else:
            late = isinstance(error, (DeadlineExceeded, ResourceExhausted))
            assert late or (caller.bad and isinstance(error, InvalidArgument))


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
