"""Callers that go on while a test changes what answers them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import grpc

from lectern.v1.predict_pb2_grpc import PredictServiceStub
from services.predict import CAPABILITY
from tests.conftest import ROOT
from tests.waiting import WAIT, wait_until

CALLERS = 8
PAUSE = 0.02  # after each call, so that no machine is so fast that an edge's limit of calls a second is reached
EXAMPLE = CAPABILITY.example(ROOT / "docs" / "examples")


class Load:
    """Callers of Predict side by side, each of which makes one call after the other from `with` to its end.

    Args:
        credentials: for TLS; without them calls are in clear text.
    """

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.failures: list[grpc.RpcError] = []
        self._target, self._credentials = target, credentials
        self._versions: dict[int, int] = {}
        self._next, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def calls(self) -> int:
        """How many have begun."""
        return self._next

    def versions_of_next(self, calls: int) -> Counter[int]:
        """Which versions of the model answer the calls that begin from now on."""
        numbers = range(self._next, self._next + calls)
        for number in numbers:
            wait_until(lambda number=number: bool(self.failures) or number in self._versions)  # type: ignore[misc]
        assert not self.failures, self.failures[:3]
        return Counter(self._versions[number] for number in numbers)

    async def _run(self) -> None:
        channel = (
            grpc.aio.secure_channel(self._target, self._credentials)
            if self._credentials
            else grpc.aio.insecure_channel(self._target)
        )
        async with channel:
            await asyncio.gather(*(self._call_on(PredictServiceStub(channel)) for _ in range(CALLERS)))

    async def _call_on(self, stub: PredictServiceStub) -> None:
        while not self._stop.is_set():
            number, self._next = self._next, self._next + 1
            try:
                self._versions[number] = (await stub.Predict(EXAMPLE, timeout=WAIT)).version
            except grpc.aio.AioRpcError as error:
                self.failures.append(error)
            await asyncio.sleep(PAUSE)
