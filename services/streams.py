"""Pipelining over one bidirectional stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from services import tracing

Request = TypeVar("Request")
Response = TypeVar("Response")


async def pipelined(
    requests: AsyncIterator[Request], handle: Callable[[Request], Awaitable[Response]], window: int
) -> AsyncIterator[Response]:
    """Handle up to `window` requests at once and yield their responses in order.

    The next request is not read while `window` responses wait to be sent, so a slow reader slows its sender. The first
    failure ends the stream.
    """
    tasks: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue(window)

    async def traced(request: Request) -> Response:
        with tracing.current().span("message"):
            return await handle(request)

    async def read() -> None:
        try:
            async for request in requests:
                await tasks.put(asyncio.ensure_future(traced(request)))
        finally:
            await tasks.put(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await tasks.get()) is not None:
            yield await task
        await reader
    finally:
        reader.cancel()
        while not tasks.empty():
            if (task := tasks.get_nowait()) is not None:
                task.cancel()
