"""Threads for work that would hold up the event loop: few, measured, and none of them lost to an item that hangs."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from services import metrics
from services.errors import ResourceExhausted

P = ParamSpec("P")
T = TypeVar("T")

MOST_ABANDONED = 8  # threads at once that work on what nobody waits for any more


@dataclass(slots=True, eq=False)
class _Item:
    """A call of a function, whose outcome goes to `future` of `loop`.

    Args:
        started: when a thread took it, in `time.monotonic()` seconds; 0 = it waits.
        timer: looks whether it hangs.
    """

    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    started: float = 0.0
    ended: bool = False
    abandoned: bool = False
    timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        result, error = None, None
        try:
            result = self.function()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self.loop.call_soon_threadsafe(self._resolve, result, error)

    def _resolve(self, result: Any, error: BaseException | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Pool:
    """Daemon threads, started as they are needed.

    Args:
        name: as in metrics.
        threads: how many items run at once.
        seconds: longest time that one item may run; then its caller is told, and another thread takes its place.
    """

    def __init__(self, name: str, threads: int, seconds: float) -> None:
        self.threads, self.seconds = threads, seconds
        self._name = name
        self._started = 0
        self._items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._abandoned = 0
        self._waiting = metrics.POOL_WAITING.labels(name)
        self._time = metrics.POOL_SECONDS.labels(name)

    async def run(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """What `function` returns or raises, called on one of the threads.

        Raises:
            ResourceExhausted: it takes longer than an item may.
        """
        loop, context = asyncio.get_running_loop(), copy_context()
        call = partial(context.run, function, *arguments, **keywords)
        item = _Item(call, loop, loop.create_future())
        item.timer = loop.call_later(self.seconds, self._check, item)
        self._waiting.inc()
        self._items.put(item)
        with self._lock:
            if more := self._started < self.threads:
                self._started += 1
        if more:
            self._start()
        return await item.future  # type: ignore[no-any-return]

    def _start(self) -> None:
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            item = self._items.get()
            self._waiting.dec()
            if item.future.cancelled():  # while it waited
                continue
            item.started = time.monotonic()
            item.run()
            self._time.observe(time.monotonic() - item.started)
            with self._lock:
                item.ended = True
                if item.abandoned:
                    self._abandoned -= 1
                    return

    def _check(self, item: _Item) -> None:
        """Whether an item has run for too long, whoever waits for it; one that waits itself is looked at later."""
        left = self.seconds - (time.monotonic() - item.started) if item.started else self.seconds
        if left > 0:
            if not (item.future.cancelled() and not item.started):
                item.timer = item.loop.call_later(left, self._check, item)
            return
        with self._lock:
            if item.ended or self._abandoned >= MOST_ABANDONED:
                replace = False
            else:
                item.abandoned = replace = True
                self._abandoned += 1
        if replace:
            self._start()
        if not item.future.done():
            item.future.set_exception(
                ResourceExhausted(f"an input takes more than {self.seconds:g} s to process; send a simpler one")
            )


codecs = Pool("codec", os.cpu_count() or 1, 30.0)
"""The process's threads for decoding, encoding and parsing; settings change their number and time."""


async def inline_or_codecs(inline: bool, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """What `function` gives, called at once if that is quick, else on the codec pool."""
    return function(*arguments, **keywords) if inline else await codecs.run(function, *arguments, **keywords)
