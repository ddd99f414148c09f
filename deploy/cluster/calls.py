"""Calls of capabilities' examples: one at a time, and at a steady rate while something happens to the servers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from services.capability import Capability

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DEADLINE_SECONDS = 60.0
"""Of each call: a machine that starts pods is slow, and slow is not lost."""
RATE = 100
"""Calls a second."""


class Door:
    """A way to the servers.

    Args:
        name: of it, for people.
        target: gRPC's target of a capability, whose name is written as Kubernetes does.
        options: of gRPC's channels.
        credentials: where it takes TLS.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[str], str],
        options: Sequence[tuple[str, str | int]],
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.name, self._target, self._options, self._credentials = name, target, options, credentials

    def ask(self, capability: Capability) -> float:
        """Milliseconds to the end of the answer to the capability's example, over a new connection.

        Raises:
            grpc.RpcError: it was not answered.
        """
        return asyncio.run(self._ask(capability))

    async def _ask(self, capability: Capability) -> float:
        begin = time.perf_counter()
        async with self.calling(capability) as call:
            await call()
        return (time.perf_counter() - begin) * 1000

    @asynccontextmanager
    async def calling(self, capability: Capability) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """A function that sends the capability's example and returns the last message of the answer."""
        request = capability.example(EXAMPLES)
        rpc = capability.service.methods_by_name[capability.rpc_of(request)]
        path, answer = f"/{capability.service.full_name}/{rpc.name}", GetMessageClass(rpc.output_type)
        async with self._channel(self._target(capability.name.replace("_", "-"))) as channel:
            kind = channel.unary_stream if rpc.server_streaming else channel.unary_unary
            method = kind(path, type(request).SerializeToString, answer.FromString)

            async def call() -> Any:
                under_way = method(request, timeout=DEADLINE_SECONDS)
                return [answer async for answer in under_way][-1] if rpc.server_streaming else await under_way

            yield call

    def _channel(self, target: str) -> grpc.aio.Channel:
        if self._credentials:
            return grpc.aio.secure_channel(target, self._credentials, self._options)
        return grpc.aio.insecure_channel(target, self._options)


class Load:
    """A context in which a capability is called RATE times a second, whatever becomes of the calls before.

    Attributes:
        codes: how calls ended.
        versions: of the models that answered.
    """

    def __init__(self, door: Door, capability: Capability) -> None:
        self.codes: Counter[str] = Counter()
        self.versions: Counter[int] = Counter()
        self._door, self._capability = door, capability
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Returns when every call has ended."""
        self._over.set()
        self._thread.join()

    async def _send(self) -> None:
        async with self._door.calling(self._capability) as call, asyncio.TaskGroup() as calls:
            due = time.monotonic()
            while not self._over.is_set():
                calls.create_task(self._count(call))
                due += 1 / RATE
                await asyncio.sleep(due - time.monotonic())

    async def _count(self, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            answer = await call()
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
        else:
            self.codes["OK"] += 1
            self.versions[answer.version] += 1

    @property
    def lost(self) -> int:
        """Calls without an answer."""
        return self.codes.total() - self.codes["OK"]

    def __str__(self) -> str:
        failures = ", ".join(f"{count} {code}" for code, count in self.codes.items() if code != "OK")
        return f"{self.codes.total()} calls by {self._door.name}, {failures or '0'} lost"
