"""The queue in C++ does what the one in Python does: the same traffic gives the same runs, refusals and answers."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import REGISTRY

from services import metrics
from services.errors import ServiceError
from services.runtime.config import Padding, QueuePolicy, TensorSpec
from services.runtime.graph import Array, EngineError, InputError
from services.runtime.scheduler import Scheduler
from tests.runtime.bench import NATIVE, Bench, Task
from tests.runtime.fakes import FOREVER, Clock, Runner, column, graph_config
from tests.waiting import WAIT, wait_until

pytestmark = list(NATIVE.marks)
ROWS, PRIORITIES, INSTANCES = 4, 2, 2
INPUTS = (TensorSpec("x", "FP16", (-1,)), TensorSpec("key", "INT64", (2,)))
OUTPUTS = (TensorSpec("twice", "FP16", (-1,)), TensorSpec("pairs", "FP64", (-1, -1)), TensorSpec("key", "INT64", ()))
POLICIES = (QueuePolicy(20, 4.0, True), QueuePolicy(12, FOREVER, False))


@dataclass
class Recorder(Runner):
    """Remembers what it was run with; refuses negative values."""

    inputs: list[tuple[Array, ...]] = field(default_factory=list)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any) -> list[Array]:
        x, key = inputs["x"], inputs["key"]
        self.inputs.append((x.copy(), key.copy()))
        if options.terminate:
            raise EngineError("terminated")
        self.clock.now += self.fixed + self.per_row * len(x) + self.per_place * x.size
        if (x < 0).any():
            raise InputError("negative")
        pairs = x[:, :, None].astype(np.float64) * 1000 + x[:, None, :]
        return [2 * x, pairs, key[:, 0].copy()]


def outcome(task: Task) -> Any:
    """What a caller has by now, in values that compare."""
    if not task.done():
        return "waits"
    if task.cancelled():
        return "cancelled"
    if error := task.exception():
        assert isinstance(error, ServiceError)
        retry_after = None if error.retry_after is None else pytest.approx(error.retry_after)
        return type(error), error.message, error.violations, retry_after
    return [(a.dtype, a.shape, a.tobytes()) for a in task.result()]


class Twins(RuleBasedStateMachine):
    """Both schedulers under the same traffic."""

    @initialize(
        fixed=st.sampled_from([0.0, 0.1]),
        per_row=st.sampled_from([0.0, 0.05]),
        per_place=st.sampled_from([0.0, 0.01]),
        padding=st.sampled_from([None, Padding(1, 7, multiple=3, budget=12)]),
        delay=st.sampled_from([0.0, 0.0, 0.5]),
        rows=st.sampled_from([None, 3]),
    )
    def begin(self, padding: Padding | None, delay: float, **arguments: Any) -> None:
        config = graph_config(
            ROWS, inputs=INPUTS, outputs=OUTPUTS, instances=INSTANCES, max_queue_delay=delay, padding=padding
        )
        config = replace(config, queues=POLICIES, default_priority=PRIORITIES)
        self.benches = [Bench(kind, config, runner=Recorder, **arguments) for kind in (Scheduler, NATIVE.values[0])]
        self.tasks: list[list[Task]] = []
        self.running: list[list[Any]] = []
        self.number, self.padding = 0, padding

    @rule(
        rows=st.integers(1, 3 * ROWS),
        width=st.sampled_from([1, 1, 2, 3, 5, 7, 14]),
        priority=st.sampled_from([0, 1, 2, 9]),
        patience=st.one_of(st.just(FOREVER), st.floats(0.05, 3.0)),
        max_wait=st.sampled_from([0.0, 0.2, 10.0]),
        bad=st.sampled_from([False, False, False, True]),
        elsewhere=st.booleans(),
    )
    def submit(
        self, rows: int, width: int, priority: int, patience: float, max_wait: float, bad: bool, elsewhere: bool
    ) -> None:
        values = (self.number + np.arange(rows)) % 512 + 1
        key = np.stack([self.number + np.arange(rows), np.zeros(rows, int)], axis=1)
        self.number += rows
        x = np.repeat(values[:, None], width, axis=1).astype(np.float16)
        x[:, width // 2] += 0.5 if width % 2 else 0
        if bad and rows < ROWS:  # the rest of a larger one would run although it has failed, until its loop turns
            x[rows // 2] *= -1
        tasks = [
            b.submit((x, key), patience, priority, b.other_loop if elsewhere else b.loop, max_wait)
            for b in self.benches
        ]
        self.tasks.append(tasks)

    @precondition(lambda self: len(self.running) < INSTANCES)
    @rule()
    def take(self) -> None:
        batches = [bench.scheduler.take() for bench in self.benches]
        assert [batch and batch.rows for batch in batches] == [batches[0] and batches[0].rows] * 2
        if batches[0]:
            self.running.append(batches)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(first=st.booleans())
    def execute(self, first: bool) -> None:
        batches = self.running.pop(0 if first else -1)
        for bench, batch in zip(self.benches, batches, strict=True):
            bench.scheduler.execute(batch)
        self.settle()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        for task in data.draw(st.sampled_from(self.tasks)):
            task.cancel()
        self.settle()

    @rule(seconds=st.sampled_from([0.1, 0.5, 5.0]))
    def wait(self, seconds: float) -> None:
        for bench in self.benches:
            bench.clock.now += seconds

    @rule()
    def close(self) -> None:
        if self.number > 100:
            for bench in self.benches:
                bench.scheduler.close()

    @invariant()
    def callers_see_the_same(self) -> None:
        for python, native in self.tasks:
            assert outcome(python) == outcome(native)

    @invariant()
    def the_same_rows_run_together(self) -> None:
        python, native = (bench.runner.inputs for bench in self.benches)
        assert len(python) == len(native)
        for ours, theirs in zip(python, native, strict=True):
            for array, other in zip(ours, theirs, strict=True):
                assert array.dtype == other.dtype
                np.testing.assert_array_equal(array, other)

    @invariant()
    def runs_cost_the_same(self) -> None:
        python, native = (bench.seconds(3, 10) for bench in self.benches)
        assert python == pytest.approx(native)

    def teardown(self) -> None:
        while self.running:
            self.execute(first=True)
        for bench in self.benches:
            bench.scheduler.close()
            bench.run()
        self.callers_see_the_same()
        self.the_same_rows_run_together()
        assert all(task.done() for tasks in self.tasks for task in tasks)
        for bench in self.benches:
            bench.close()

    def settle(self) -> None:
        for bench in self.benches:
            bench.settle()


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


class Waiter(Runner):
    """Runs until it is told to end if its input is 0; else answers at once."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Any) -> list[Array]:
        (x,) = inputs.values()
        self.runs.append(len(x))
        if (x == 0).any():
            wait_until(lambda: options.terminate)
            raise EngineError("terminated")
        return [2 * x]


@pytest.fixture
def threaded() -> Iterator[Any]:
    """A native scheduler with a thread, and its runner."""
    runner = Waiter(Clock())
    scheduler = NATIVE.values[0](replace(graph_config(8), name="threaded"), 1, runner)
    scheduler.start()
    yield scheduler, runner
    scheduler.close()
    scheduler.join(WAIT)


def series(name: str, **labels: str) -> float:
    metrics.collect_sources()
    return REGISTRY.get_sample_value(name, {"model": "threaded", **labels}) or 0.0


async def test_threads_answer_callers_and_count_them(threaded: Any) -> None:
    scheduler, runner = threaded
    before = series("lectern_queue_seconds_count", version="1")
    calls = [scheduler.run(column(*range(i, i + 1 + i % 20)), FOREVER, 0, 0.0) for i in range(1, 200)]
    for i, answer in enumerate(await asyncio.gather(*calls), 1):
        np.testing.assert_array_equal(answer[0][:, 0], 2 * np.arange(i, i + 1 + i % 20))
    assert sum(runner.runs) == sum(1 + i % 20 for i in range(1, 200))
    assert series("lectern_queue_seconds_count", version="1") - before >= 199
    assert series("lectern_queue_depth", version="1") == 0


async def test_a_run_that_nobody_waits_for_ends(threaded: Any) -> None:
    scheduler, runner = threaded
    cancelled, abandoned = (series("lectern_rejected_total", reason=r) for r in ("cancelled", "abandoned"))
    endless = asyncio.create_task(scheduler.run(column(0), FOREVER, 0, 0.0))
    await asyncio.to_thread(wait_until, lambda: runner.runs == [1])
    queued = asyncio.create_task(scheduler.run(column(3), FOREVER, 0, 0.0))
    await asyncio.sleep(0)
    assert series("lectern_queue_depth", version="1") == 1
    for task in (queued, endless):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await scheduler.run(column(1), FOREVER, 0, 0.0))[0].item() == 2  # there is one instance
    assert series("lectern_rejected_total", reason="cancelled") == cancelled + 1
    assert series("lectern_rejected_total", reason="abandoned") == abandoned + 1


async def test_runs_of_callers_that_only_the_queue_knows_end_too(threaded: Any) -> None:
    scheduler, runner = threaded
    from services import _native

    ticket = scheduler.queue.submit(column(0), FOREVER, 0, 0.0, time.monotonic(), _native.Mailbox(), None)
    scheduler.queue.wake()
    await asyncio.to_thread(wait_until, lambda: runner.runs == [1])
    scheduler.queue.abandon(ticket)  # as the front does
    assert (await scheduler.run(column(1), FOREVER, 0, 0.0))[0].item() == 2


async def test_arrays_of_another_type_are_refused(threaded: Any) -> None:
    scheduler, _ = threaded
    with pytest.raises(TypeError, match="FP32"):
        await scheduler.run((np.zeros((1, 1), np.float64),), FOREVER, 0, 0.0)


async def test_what_is_answered_is_let_go(threaded: Any) -> None:
    scheduler, _ = threaded
    arrays = column(1)
    watched = weakref.ref(arrays[0])
    answer = await scheduler.run(arrays, FOREVER, 0, 0.0)
    del arrays
    await scheduler.run(column(1), FOREVER, 0, 0.0)
    assert answer[0].item() == 2
    assert watched() is None
