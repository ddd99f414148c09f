"""Pipelining over one bidirectional stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from services import tracing

Request = TypeVar("Request")
Response = TypeVar("Response")


async def pipelined(
    requests: AsyncIterator[Request], handle: Callable[[Request], Awaitable[Response]], window: int
) -> AsyncGenerator[Response, None]:
    """Handle up to `window` requests at once and yield their responses in order.

    The next request is not read while `window` responses wait to be sent, so a slow reader slows down its own sender.
    The first failure ends the stream. The consumer must close the generator (`contextlib.aclosing`), which ends all
    tasks and closes `requests` too.
    """
    under_way: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue()
    places = asyncio.Semaphore(window)

    async def traced(request: Request) -> Response:
        with tracing.current().span("message"):
            return await handle(request)

    async def read() -> None:
        try:
            await places.acquire()
            async for request in requests:
                under_way.put_nowait(asyncio.ensure_future(traced(request)))
                await places.acquire()
        finally:
            under_way.put_nowait(None)

    reader = asyncio.create_task(read())
    task: asyncio.Task[Response] | None = None
    try:
        while task := await under_way.get():
            yield await task
            places.release()
        await reader
    finally:
        tasks: list[asyncio.Task[Any]] = [reader] if task is None else [reader, task]
        reader.cancel()
        while not under_way.empty():
            if task := under_way.get_nowait():
                tasks.append(task)
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(requests, AsyncGenerator):
            await requests.aclose()
