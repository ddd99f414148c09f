"""Pools, budget and numeric loops: what is bounded stays so, and nothing is lost to what hangs."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lectern.v1 import classify_pb2 as pb
from services.budget import Budget, deadline, default_total
from services.errors import InvalidArgument, ResourceExhausted
from services.numeric import NumericLoop
from services.pools import Pool
from services.wire import TooManyFieldsError, check_fields

pytestmark = pytest.mark.unit


async def test_a_pool_runs_as_many_items_at_once_as_it_has_threads() -> None:
    pool, running, most, lock = Pool("test", 2, 60), 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(60)
        with lock:
            running -= 1
        return item

    assert await asyncio.gather(*(pool.run(work, i) for i in range(8))) == list(range(8))
    assert most == 2


async def test_an_item_that_hangs_costs_its_caller_and_no_thread() -> None:
    pool, stop = Pool("test", 1, 0.05), threading.Event()
    hanging = [asyncio.ensure_future(pool.run(stop.wait)) for _ in range(3)]
    cancelled = asyncio.ensure_future(pool.run(stop.wait))
    await asyncio.sleep(0)
    cancelled.cancel()
    for call in hanging:
        with pytest.raises(ResourceExhausted, match=r"more than 0\.05 s"):
            await call
    assert await pool.run(lambda: 7) == 7
    stop.set()
    assert await pool.run(lambda: 8) == 8


async def test_an_item_that_ended_or_was_cancelled_is_let_go_before_its_time_limit() -> None:
    pool, entered, release = Pool("test", 1, 3600), threading.Event(), threading.Event()
    gone = []

    class Photo:
        def __init__(self) -> None:
            self.gone = threading.Event()
            gone.append(self.gone)
            weakref.finalize(self, self.gone.set)

        def work(self) -> None:
            entered.set()
            release.wait(60)

    running, waiting, last = (asyncio.ensure_future(pool.run(Photo().work)) for _ in range(3))
    await asyncio.to_thread(entered.wait, 60)
    waiting.cancel()
    release.set()
    await asyncio.wait((running, waiting, last))
    del running, waiting, last
    assert all([await asyncio.to_thread(each.wait, 10) for each in gone])


async def test_an_error_of_an_item_is_its_callers() -> None:
    def fail() -> None:
        raise KeyError("why")

    with pytest.raises(KeyError, match="why"):
        await Pool("test", 1, 60).run(fail)


async def test_a_budget_is_given_out_in_order() -> None:
    budget, order = Budget("test", 10), []

    async def call(name: str, amount: int) -> None:
        async with budget.hold(amount, "request"):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(call("a", 6), call("b", 6), call("c", 1), call("d", 10))
    assert order == ["a", "b", "c", "d"]  # c does not pass b, or large requests would starve


async def test_what_never_fits_is_refused_at_once_and_what_does_not_fit_in_time_later() -> None:
    budget = Budget("test", 10)
    with pytest.raises(InvalidArgument, match="hold 10"):
        await budget.take(11, "request")
    await budget.take(10, "request")
    deadline.set(time.monotonic() + 0.01)
    with pytest.raises(ResourceExhausted) as caught:
        await budget.take(1, "request")
    assert caught.value.retry_after
    budget.give_back(10)
    await budget.take(10, "request")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 10), st.booleans()), max_size=20))
def test_a_budget_loses_nothing_whoever_is_cancelled(calls: list[tuple[int, bool]]) -> None:
    async def main() -> None:
        budget, held = Budget("test", 10), 0

        async def call(amount: int) -> None:
            nonlocal held
            async with budget.hold(amount, "request"):
                held += amount
                try:
                    assert held <= 10
                    await asyncio.sleep(0)
                finally:
                    held -= amount

        tasks = [asyncio.ensure_future(call(amount)) for amount, _ in calls]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, calls, strict=True):
            if cancelled and not task.done():
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
        await budget.take(10, "request")

    asyncio.run(main())


def test_the_default_budget_is_a_part_of_what_is_left() -> None:
    assert 2**25 <= default_total(2) <= default_total(1) < 2**45


def test_fields_are_counted_before_a_message_is_parsed() -> None:
    request = pb.ClassifyFewShotRequest(support=[pb.LabelledImage(label="a", image=b"1")] * 50, queries=[b"2"] * 20)
    message = request.SerializeToString()
    check_fields(message, request.DESCRIPTOR, 50 * 3 + 20)
    with pytest.raises(TooManyFieldsError, match="more than 169"):
        check_fields(message, request.DESCRIPTOR, 50 * 3 + 19)
    with pytest.raises(TooManyFieldsError):
        check_fields(b"\x0a\x00" * 2_000_000, request.DESCRIPTOR, 100_000)


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_counted_to_its_end(message: bytes) -> None:
    try:
        check_fields(message, pb.ClassifyFewShotRequest.DESCRIPTOR, 100)
    except TooManyFieldsError:
        assert len(message) > 50


async def test_a_numeric_loop_runs_awaits_and_cancels() -> None:
    numeric, cancelled = NumericLoop(), threading.Event()

    async def name() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def hang() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    assert await numeric.run(name()) == "numeric"
    task = asyncio.ensure_future(numeric.run(hang()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, 60)


async def test_a_stream_of_a_numeric_loop_ends_with_its_reader() -> None:
    numeric, closed = NumericLoop(), threading.Event()

    async def items() -> AsyncIterator[int]:
        try:
            for i in range(1000):
                yield i
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            closed.set()

    items_read = []
    stream = numeric.iterate(items())
    async for item in stream:
        items_read.append(item)
        if item == 3:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    assert items_read == [0, 1, 2, 3]
    assert closed.is_set()
