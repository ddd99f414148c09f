"""Callers who send or read by drops, stop in the middle, or say good-bye: each is given up in time, others are served,
and nothing of theirs is kept."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.errors import DeadlineExceeded
from tests.conftest import Server, serving
from tests.native.conftest import GRPC_TRANSPORT, TRANSPORT
from tests.native.wire import (
    ECHO,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    RST_STREAM,
    WIDE,
    WINDOW_UPDATE,
    Wire,
    block,
    call,
    data,
    exchange,
    frame,
    headers,
    setting,
    uint32,
    wired,
)
from tests.server.at_rest import nothing_kept
from tests.server.raw_http2 import framed
from tests.waiting import WAIT, wait_until

CONNECTIONS, STREAMS = 20, 20
READER_TIMEOUT = 1
PIECE = 16
CANCEL = 8
DEADLINE = DeadlineExceeded.code
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
Address = tuple[str, int]

pytestmark = pytest.mark.skipif(GRPC_TRANSPORT, reason="grpc.aio gives nobody up who sends slowly")


@pytest.fixture(scope="module")
def patient(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits a second for whoever sends or reads nothing."""
    directory, timeout = tmp_path_factory.mktemp("patient"), {"LECTERN_READER_TIMEOUT_SECONDS": str(READER_TIMEOUT)}
    transport = {"LECTERN_TRANSPORT": TRANSPORT}
    with serving(directory, "predict", repository=small_models, **timeout, **transport) as server:
        host, port = server.target.split(":")
        assert exchange((host, int(port)), call(1)).status == 0
        yield server


@pytest.fixture
def address(patient: Server) -> Address:
    host, port = patient.target.split(":")
    return host, int(port)


@pytest.fixture
def wires(address: Address) -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        yield [stack.enter_context(wired(address)) for _ in range(CONNECTIONS)]


def ids() -> range:
    return range(1, 2 * STREAMS, 2)


def drip(wires: list[Wire], body: bytes) -> None:
    """Send a body by pieces on every stream, until every stream has ended."""
    for at in range(0, len(body), PIECE):
        for wire in wires:
            wire.send(b"".join(data(stream, body[at : at + PIECE], 0) for stream in ids()))
            wire.reply(1, 0.001)
        if all(wire.replies[stream].end != "silent" for wire in wires for stream in ids() if stream in wire.replies):
            return
        time.sleep(0.05)


def test_requests_that_arrive_by_drops_are_given_up(patient: Server, address: Address, wires: list[Wire]) -> None:
    large = framed(bytes(2**20))
    with nothing_kept(patient):
        for wire in wires:
            wire.send(b"".join(headers(stream) + data(stream, large[:PIECE], 0) for stream in ids()))
        drip(wires, large[PIECE:])
        ends = {(wire.reply(stream).end, wire.reply(stream).status) for wire in wires for stream in ids()}
        assert ends == {("answered", DEADLINE)}
        assert exchange(address, call(1)).status == 0
        for wire in wires:
            wire.socket.close()


def test_streams_whose_message_stops_in_the_middle_are_given_up(patient: Server, wires: list[Wire]) -> None:
    with nothing_kept(patient):
        for wire in wires:
            begun = (headers(stream, block(path=REFLECT)) + data(stream, framed(bytes(99))[:50], 0) for stream in ids())
            wire.send(b"".join(begun))
        ends = {(wire.reply(stream).end, wire.reply(stream).status) for wire in wires for stream in ids()}
        assert ends == {("answered", DEADLINE)}
        for wire in wires:
            wire.socket.close()


def test_answers_without_a_window_are_given_up(patient: Server, address: Address) -> None:
    with nothing_kept(patient), ExitStack() as stack:
        shut = setting(INITIAL_WINDOW_SIZE, 0)
        wires = [stack.enter_context(wired(address, shut)) for _ in range(CONNECTIONS)]
        for wire in wires:
            wire.send(b"".join(call(stream, body=WIDE) for stream in ids()))
        assert {wire.reply(stream).end for wire in wires for stream in ids()} == {"reset"}
        assert exchange(address, call(1)).status == 0


def test_a_window_that_opens_byte_by_byte_holds_up_nobody(patient: Server, address: Address) -> None:
    with nothing_kept(patient), wired(address, setting(INITIAL_WINDOW_SIZE, 0)) as wire:
        wire.send(call(1, body=WIDE))
        end = time.monotonic() + 2 * READER_TIMEOUT
        while time.monotonic() < end:
            assert wire.send(frame(WINDOW_UPDATE, 0, 1, uint32(1)))
            assert exchange(address, call(1)).status == 0
        assert wire.reply(1, 0.1).end == "silent"


def reset(wire: Wire) -> None:
    """As the system does of a process that ends with bytes unread."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()


def half_close(wire: Wire) -> None:
    """Says that nothing more comes, and reads on."""
    wire.socket.shutdown(socket.SHUT_WR)


def good_bye(wire: Wire) -> None:
    wire.send(frame(GOAWAY, 0, 0, uint32(0) + uint32(0)))


def take_back(wire: Wire) -> None:
    wire.send(b"".join(frame(RST_STREAM, 0, stream, uint32(CANCEL)) for stream in ids()))


@pytest.mark.parametrize("end", [reset, half_close, good_bye, take_back])
@pytest.mark.parametrize(
    "begun",
    [headers(1)[:5], headers(1), headers(1) + data(1, ECHO[:9], 0), headers(1) + ECHO[:3], call(1), call(1, body=WIDE)],
    ids=["half a frame", "headers", "half a message", "half of DATA", "a call", "a large answer"],
)
def test_connections_that_end_at_any_point_leave_nothing(
    patient: Server, wires: list[Wire], begun: bytes, end: Callable[[Wire], None]
) -> None:
    with nothing_kept(patient):
        for wire in wires:
            wire.send(begun)
            end(wire)
        time.sleep(0.2)
        for wire in wires:
            wire.socket.close()


def test_calls_before_a_good_bye_are_answered(patient: Server, address: Address) -> None:
    with nothing_kept(patient), wired(address) as wire:
        wire.send(b"".join(map(call, ids())))
        good_bye(wire)
        assert {(wire.reply(stream).end, wire.reply(stream).status) for stream in ids()} == {("answered", 0)}
        wait_until(lambda: wire.reply(2**20 + 1, WAIT).end == "closed")
