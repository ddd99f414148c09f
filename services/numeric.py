"""Event loops on threads of their own for capabilities that compute in Python, so that the work between two runs of a
graph delays neither the transport nor other capabilities."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


class NumericLoop:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="numeric", daemon=True).start()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await `coroutine` on this loop, in the caller's context; it is cancelled with the caller."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    async def iterate(self, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """The same items, each produced on this loop; `items` is closed there with this iterator."""
        one_at_a_time = asyncio.Lock()  # a cancelled item takes a while to end

        async def following() -> Any:
            async with one_at_a_time:
                return await anext(items, _END)

        async def close() -> None:
            async with one_at_a_time:
                if isinstance(items, AsyncGenerator):
                    await items.aclose()

        try:
            while (item := await self.run(following())) is not _END:
                yield item
        finally:
            await self.run(close())
