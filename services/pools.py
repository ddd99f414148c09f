"""Thread pools for work that would delay the event loop: bounded, measured, and robust against items that hang."""

from __future__ import annotations

import asyncio
import os
import queue
import sys
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

NICENESS = 10
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
        self.resolve(result, error)

    def resolve(self, result: Any = None, error: BaseException | None = None) -> None:
        """Tell the caller, if one still waits, and stop the timer, which holds what the function works on."""
        with suppress(RuntimeError):  # the loop is closed, so no caller waits
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
    """A pool of daemon threads, which are started when needed.

    Args:
        name: its label in metrics.
        threads: how many items run at once.
        seconds: time limit of one item; beyond it its caller gets an error, and a new thread replaces the item's.
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
        """Call `function` on one of the threads; returns or raises as it does.

        Raises:
            ResourceExhausted: it exceeds the time limit.
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
        _yield_cores()
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Run the next item and let go of what it holds; returns whether the thread is still wanted."""
        item = self._items.get()
        self._waiting.dec()
        if item.future.cancelled():  # its caller went away while it waited
            item.resolve()
            return True
        item.started = time.monotonic()
        item.run()
        self._time.observe(time.monotonic() - item.started)
        with self._lock:
            item.ended = True
            if item.abandoned:
                self._abandoned -= 1
            return not item.abandoned

    def _check(self, item: _Item) -> None:
        """Give up an item that has run for too long, even if no caller waits; check a waiting item again later."""
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


def _yield_cores() -> None:
    """Give the calling thread a lower priority than the threads that answer small calls."""
    if sys.platform == "linux":  # only there each thread has its own priority (setpriority(2))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


codecs = Pool("codec", os.cpu_count() or 1, 30.0)
"""The process's threads for decoding, encoding and parsing; settings change their number and time limit."""


async def inline_or_codecs(inline: bool, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Call `function` directly if `inline`, otherwise on the codec pool."""
    return function(*arguments, **keywords) if inline else await codecs.run(function, *arguments, **keywords)
