"""What a stream holds is free when its call ends, not when Python's garbage collector comes by."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from services.rpc import Call
from services.server import connections
from services.server.grpc_transport import Server, _Arrivals, _call, _handler
from services.server.pipeline import Endpoint, Gate
from services.server.registry import Method
from services.server.settings import Settings
from tests.waiting import WAIT

LARGE = 2**20  # more than a connection takes whose client does not read


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Streaming:
    """A servicer of two streams; `open` counts those under way."""

    def __init__(self) -> None:
        self.open = 0
        self.ended = asyncio.Event()

    async def answer(self, request: BytesValue, call: Call) -> AsyncGenerator[BytesValue, None]:
        self.open += 1
        try:
            while True:
                yield BytesValue(value=bytes(LARGE))
        finally:
            self.open -= 1
            asyncio.get_running_loop().call_soon(self.ended.set)

    async def converse(self, requests: AsyncIterator[BytesValue], call: Call) -> AsyncGenerator[BytesValue, None]:
        async for request in requests:
            async with aclosing(self.answer(request, call)) as responses:
                async for response in responses:
                    yield response

    def endpoints(self, gate: Gate) -> Iterator[Endpoint]:
        for name, function in (("Answer", self.answer), ("Converse", self.converse)):
            yield Endpoint(Method("test.Test", name, BytesValue, name == "Converse", True, function, ""), gate)


def open_files() -> list[str]:
    return [os.path.realpath(f"/proc/self/fd/{descriptor}") for descriptor in os.listdir("/proc/self/fd")]


@contextmanager
def open_pipe() -> Iterator[str]:
    """Two file descriptors that are no sockets, by the name that both have."""
    ends = os.pipe()
    try:
        yield os.path.realpath(f"/proc/self/fd/{ends[0]}")
    finally:
        for end in ends:
            os.close(end)


class Gone:
    """A caller who goes away while a message is written to him."""

    def invocation_metadata(self) -> None:
        return None

    def set_trailing_metadata(self, _: object) -> None:
        return None

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, _: bytes) -> None:
        raise asyncio.CancelledError


@pytest.mark.parametrize("name", ["Answer", "Converse"])
async def test_nothing_of_a_stream_outlives_its_handler(name: str) -> None:
    gate, streaming = Gate(), Streaming()
    (endpoint,) = (e for e in streaming.endpoints(gate) if e.method.name == name)
    make_call = partial(_call, endpoint, mutual_tls=False, names_all=True)
    handler: Any = _handler(endpoint, make_call, reader_timeout=WAIT, arrivals=_Arrivals())

    async def requests() -> AsyncGenerator[bytes, None]:
        yield b""

    run = handler.unary_stream(b"", Gone()) if name == "Answer" else handler.stream_stream(requests(), Gone())
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (gate.active, gate.finished, streaming.open) == (0, 1, 0)


async def test_a_stop_leaves_no_file_descriptor_open() -> None:
    server = Server(Settings(drain_seconds=1.0), None, Gate())
    port = await server.start("127.0.0.1", 0)
    try:
        with open_pipe() as pipe:
            connections.send_goaway(port)
            connections.stop_listening(port)
            assert open_files().count(pipe) == 2
    finally:
        await server.stop()


@pytest.mark.parametrize("end", ["cancelled", "late", "disconnected"])
@pytest.mark.parametrize("name", ["Answer", "Converse"])
async def test_a_stream_that_nobody_reads_frees_its_place_when_it_ends(name: str, end: str) -> None:
    gate, streaming = Gate(), Streaming()
    server = Server(Settings(drain_seconds=1.0), None, Gate())
    server.add_endpoints(streaming.endpoints(gate))
    port = await server.start("127.0.0.1", 0)
    timeout = 1.0 if end == "late" else None
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            if name == "Answer":
                call = channel.unary_stream(f"/test.Test/{name}")(b"", timeout=timeout)
            else:
                call = channel.stream_stream(f"/test.Test/{name}")(timeout=timeout)
                await call.write(b"")
            await call.read()
            await asyncio.sleep(0.2)  # the server sends until the connection takes no more
            assert (gate.active, streaming.open) == (1, 1)
            if end == "cancelled":
                call.cancel()
            elif end == "disconnected":
                await channel.close()
            await asyncio.wait_for(streaming.ended.wait(), 10)
            assert (gate.active, streaming.open) == (0, 0)
    finally:
        await server.stop()
