"""Pipelining over one stream, on an event loop that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.streams import pipelined
from tests.runtime.fakes import Clock, Loop

END = -1
WINDOW = 3


class BadRequestError(Exception):
    """What a handler raises."""


class Bench:
    """A stream whose requests, answers and reader are the test's."""

    def __init__(self) -> None:
        self.loop = Loop(Clock())
        self.inbox: asyncio.Queue[int] = asyncio.Queue()
        self.started: dict[int, asyncio.Future[int]] = {}
        self.ended: list[int] = []
        self.read: list[int] = []
        self.source_closed = False
        self.stream = pipelined(self._requests(), self._handle, WINDOW)

    async def _requests(self) -> AsyncGenerator[int, None]:
        try:
            while (number := await self.inbox.get()) != END:
                yield number
        finally:
            self.source_closed = True

    async def _handle(self, number: int) -> int:
        self.started[number] = self.loop.create_future()
        try:
            return await self.started[number]
        finally:
            self.ended.append(number)

    def task(self, coroutine: Coroutine[Any, Any, int | None]) -> asyncio.Task[int | None]:
        task = self.loop.create_task(coroutine)
        self.loop.settle()
        return task

    def next(self) -> asyncio.Task[int | None]:
        async def read() -> int | None:
            async for response in self.stream:
                self.read.append(response)
                return response
            return None

        task = self.task(read())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, should nobody ask
        return task

    def send(self, number: int) -> None:
        self.inbox.put_nowait(number)
        self.loop.settle()

    def answer(self, number: int, error: Exception | None = None) -> None:
        if error:
            self.started[number].set_exception(error)
        else:
            self.started[number].set_result(number)
        self.loop.settle()

    @property
    def under_way(self) -> list[int]:
        return [number for number in self.started if number not in self.ended]

    def check_closed(self) -> None:
        """Nothing of the stream is left."""
        assert not self.under_way
        assert self.source_closed
        assert not asyncio.all_tasks(self.loop)
        assert not self.loop.errors


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.loop.close()


@pytest.mark.parametrize("sent", range(WINDOW + 3))
def test_a_closed_stream_leaves_nothing_behind(bench: Bench, sent: int) -> None:
    reader = bench.next()
    for number in range(sent):
        bench.send(number)
    if sent:
        bench.answer(0)
        assert reader.done()
    else:
        reader.cancel()
        bench.loop.settle()
    bench.task(bench.stream.aclose())
    bench.check_closed()


def test_a_cancelled_reader_leaves_nothing_behind(bench: Bench) -> None:
    reader = bench.next()
    for number in range(WINDOW + 2):
        bench.send(number)
    reader.cancel()
    bench.loop.settle()
    bench.check_closed()


def test_a_failure_comes_in_its_turn_and_ends_the_stream(bench: Bench) -> None:
    reader = bench.next()
    for number in range(3):
        bench.send(number)
    bench.answer(1, BadRequestError())
    assert not reader.done()
    bench.answer(0)
    assert reader.result() == 0
    assert isinstance(bench.next().exception(), BadRequestError)
    bench.check_closed()


class Pipelining(RuleBasedStateMachine):
    """Requests come, handlers answer in any order or fail, the reader reads or not, and the stream may be closed."""

    @initialize()
    def begin(self) -> None:
        self.bench = Bench()
        self.reader: asyncio.Task[int | None] | None = None
        self.sent = 0
        self.failed: int | None = None
        self.ended = self.over = False

    @precondition(lambda self: not self.ended)
    @rule()
    def send(self) -> None:
        self.bench.send(self.sent)
        self.sent += 1

    @precondition(lambda self: not self.ended)
    @rule()
    def end(self) -> None:
        self.bench.send(END)
        self.ended = True

    @precondition(lambda self: not self.over and (self.reader is None or self.reader.done()))
    @rule()
    def read(self) -> None:
        self.reader = self.bench.next()

    @precondition(lambda self: self.bench.under_way)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def answer(self, data: st.DataObject, fails: bool) -> None:
        number = data.draw(st.sampled_from(self.bench.under_way))
        if fails and (self.failed is None or number < self.failed):
            self.failed = number
        self.bench.answer(number, BadRequestError() if fails else None)

    @precondition(lambda self: not self.over)
    @rule()
    def close(self) -> None:
        if self.reader and not self.reader.done():
            self.reader.cancel()
            self.bench.loop.settle()
        self.bench.task(self.bench.stream.aclose())
        if self.reader:
            self.bench.check_closed()
        self.over = True

    @rule()
    def wait(self) -> None:
        self.bench.loop.settle()

    @invariant()
    def responses_are_those_sent_in_order(self) -> None:
        assert self.bench.read == list(range(len(self.bench.read)))
        assert self.failed is None or len(self.bench.read) <= self.failed

    @invariant()
    def no_more_than_the_window_is_worked_on(self) -> None:
        assert len(self.bench.started) - len(self.bench.read) <= WINDOW

    def teardown(self) -> None:
        if self.over:
            self.bench.loop.close()
            return
        if not self.ended:
            self.end()
        for number in range(self.sent + 1):
            if self.reader is None or self.reader.done():
                self.read()
            if number in self.bench.under_way and number not in self.bench.ended:
                future = self.bench.started[number]
                if not future.done():
                    self.bench.answer(number)
            if self.reader and self.reader.done() and self.reader.exception():
                break
        if self.failed is None:
            assert self.bench.read == list(range(self.sent))
        else:
            assert self.bench.read == list(range(self.failed))
        self.bench.check_closed()
        self.bench.loop.close()


TestPipelining = Pipelining.TestCase
TestPipelining.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
