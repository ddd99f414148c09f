"""Public attacks on HTTP/2 and gRPC servers, and malformed calls: the server lives, others are served, memory is
bounded.

`pytest --junit-xml FILE` writes what each did. Against another server: FRONT_COMMAND (conftest.py).
"""

from __future__ import annotations

import os
import random
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

import pytest

from tests.native.bystander import MB, Record, unharmed
from tests.native.conftest import GRPC_TRANSPORT, Front
from tests.native.wire import (
    ACK,
    CONTINUATION,
    DATA,
    ECHO,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INFER,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WIDE,
    WINDOW_UPDATE,
    Reply,
    block,
    call,
    data,
    exchange,
    frame,
    headers,
    indexed,
    integer,
    literal,
    setting,
    uint32,
    wired,
)  # fmt: skip
from tests.server.raw_http2 import framed
from tests.waiting import WAIT, wait_until

STREAMS = 100_000
CANCEL = 8
DESCRIPTORS = 256
Address = tuple[str, int]


# Floods: frames without end on one connection, whose replies are not read.


def flood_of(piece: bytes, size: int, before: bytes = b"", *, greeted: bool = False) -> Callable[[Address], int]:
    """Sends `before`, then pieces to that many bytes, or until the server takes no more."""

    def attack(address: Address) -> int:
        with wired(address, greeted=greeted) as wire:
            wire.send(before)
            return wire.flood(piece, size)

    return attack


def calls_of(make: Callable[[int], bytes], count: int, *, greeted: bool = False) -> Callable[[Address], int]:
    """Sends what is made for each of many streams; returns how many were taken. Replies are thrown away."""

    def attack(address: Address) -> int:
        with wired(address, greeted=greeted) as wire:
            threading.Thread(target=swallow, args=(wire.socket,), daemon=True).start()
            for first in range(0, count, 200):
                batch = b"".join(make(2 * i + 1) for i in range(first, min(count, first + 200)))
                if not wire.send(batch, 20):
                    return first
            return count

    return attack


def swallow(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(2**16):
            pass


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, uint32(CANCEL))


def hpack_bomb(stream: int) -> bytes:
    """16 KiB that stand for 64 MB: one entry of 4,000 bytes, and references to it."""
    entry = literal("x", "a" * 3900, indexed=True) if stream == 1 else b""
    return headers(stream, entry + block() + indexed(62) * (2**14 - 4300), END_HEADERS | END_STREAM)


def zero_window(address: Address, *, greeted: bool = True) -> int:
    """1,000 answers of 256 KiB on one connection, not one of which is read."""
    with wired(address, setting(INITIAL_WINDOW_SIZE, 0), greeted=greeted) as wire:
        for stream in range(1, 2001, 2):
            if not wire.send(call(stream, body=WIDE), 5):
                return stream
        time.sleep(3)
    return 1000


def unread_socket(address: Address) -> int:
    """The same with all the window there is, but a socket that is not read."""
    with wired(address, setting(INITIAL_WINDOW_SIZE, 2**31 - 1)) as wire:
        wire.send(frame(WINDOW_UPDATE, 0, 0, uint32(2**31 - 1 - 65_535)))
        for stream in range(1, 2001, 2):
            if not wire.send(call(stream, body=WIDE), 5):
                return stream
        time.sleep(3)
    return 1000


def windows_of_open_streams(address: Address) -> int:
    """200 streams, all of whose windows each SETTINGS changes."""
    with wired(address) as wire:
        wire.send(b"".join(headers(stream) for stream in range(1, 401, 2)))
        sizes = [frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, size)) for size in (0, 100_000)]
        return wire.flood(b"".join(sizes), 4 * MB)


def slow_prefaces(address: Address) -> int:
    with ExitStack() as stack:
        wires = [stack.enter_context(wired(address, preface=b"")) for _ in range(300)]
        for byte in PREFACE:
            for wire in wires:
                wire.send(bytes([byte]))
        return len(wires)


def half_calls(address: Address) -> int:
    """Connections left in the middle of a header block, a frame, a message, without a word."""
    for i in range(600):
        with wired(address, greeted=False) as wire:
            wire.send((headers(1, flags=0), call(1)[:40], headers(1) + data(1, ECHO[:9], 0))[i % 3])
    return 600


def garbage(address: Address) -> int:
    chance = random.Random(0)  # noqa: S311
    for i in range(300):
        frames = [
            frame(
                chance.randrange(12),
                chance.randrange(256),
                chance.randrange(6),
                chance.randbytes(chance.randrange(200)),
            )
            for _ in range(20)
        ]
        junk = (b"", PREFACE, PREFACE + frame(SETTINGS))[i % 3]
        junk += b"".join(frames) if i % 3 == 2 else chance.randbytes(4000)
        with wired(address, preface=b"") as wire:
            wire.send(junk)
            with suppress(OSError):
                wire.socket.shutdown(socket.SHUT_WR)
            swallow(wire.socket)
    return 300


def many_messages(address: Address) -> int:
    """Empty messages in a unary call, 5 bytes each."""
    with wired(address) as wire:
        wire.send(headers(1))
        return wire.flood(data(1, framed(b"") * 3000, 0), 8 * MB)


OPEN = headers(1)
UNFINISHED = headers(1, flags=0)
LONG_NAME = b"\x00\x01x" + integer(2**30, 7)  # a value of 1 GiB begins

FLOODS: dict[str, Callable[[Address], int]] = {
    "HPACK bomb": calls_of(hpack_bomb, 200),
    "HPACK bomb, greeted": calls_of(hpack_bomb, 200, greeted=True),
    "a byte for each header": calls_of(lambda s: headers(s, block() + indexed(2) * 16_000), 500),
    "cookie crumbs": calls_of(lambda s: headers(s, block() + literal("cookie", "") * 1500), 2000),
    "table size updates": calls_of(lambda s: headers(s, (b"\x20" + integer(4096, 5, 0x20)) * 3000 + block()), 300),
    "table size updates, each a block": calls_of(
        lambda s: headers(s, b"\x20\x3f\xe1\x1f" + block()) + reset(s), 50_000
    ),
    "table sizes by SETTINGS": flood_of(
        frame(SETTINGS, 0, 0, setting(HEADER_TABLE_SIZE, 0) + setting(HEADER_TABLE_SIZE, 4096)), 16 * MB
    ),
    "a string of 1 GiB": flood_of(frame(CONTINUATION, 0, 1, b"a" * 2**14), 256 * MB, headers(1, LONG_NAME, 0)),
    "an integer that does not end": flood_of(
        frame(CONTINUATION, 0, 1, b"\x80" * 2**14), 64 * MB, headers(1, b"\x7f", 0)
    ),
    "CONTINUATION without end": flood_of(frame(CONTINUATION, 0, 1, literal("x", "y" * 50) * 250), 128 * MB, UNFINISHED),
    "empty CONTINUATION": flood_of(frame(CONTINUATION, 0, 1), 32 * MB, UNFINISHED),
    "CONTINUATION a byte at a time": flood_of(frame(CONTINUATION, 0, 1, b"a"), 16 * MB, headers(1, LONG_NAME, 0)),
    "CONTINUATION without end, greeted": flood_of(
        frame(CONTINUATION, 0, 1, literal("x", "y" * 50) * 250), 128 * MB, UNFINISHED, greeted=True
    ),
    "a string of 1 GiB, greeted": flood_of(
        frame(CONTINUATION, 0, 1, b"a" * 2**14), 256 * MB, headers(1, LONG_NAME, 0), greeted=True
    ),
    "rapid reset, greeted": calls_of(lambda s: headers(s) + reset(s), STREAMS, greeted=True),
    "streams over the limit, greeted": calls_of(headers, STREAMS, greeted=True),
    "calls of nothing, greeted": calls_of(
        lambda s: headers(s, flags=END_HEADERS | END_STREAM), STREAMS // 2, greeted=True
    ),
    "rapid reset": calls_of(lambda s: headers(s) + reset(s), STREAMS),
    "rapid reset of whole calls": calls_of(lambda s: call(s) + reset(s), STREAMS),
    "made to reset: window update of 0": calls_of(
        lambda s: headers(s) + frame(WINDOW_UPDATE, 0, s, uint32(0)), STREAMS
    ),
    "made to reset: window overflow": calls_of(
        lambda s: headers(s) + frame(WINDOW_UPDATE, 0, s, uint32(2**31 - 1)), STREAMS
    ),
    "made to reset: data after the end": calls_of(lambda s: call(s) + data(s), STREAMS),
    "streams over the limit": calls_of(headers, STREAMS),
    "PING": flood_of(frame(PING, 0, 0, bytes(8)), 64 * MB),
    "SETTINGS": flood_of(frame(SETTINGS), 64 * MB),
    "SETTINGS with 2,000 entries": flood_of(frame(SETTINGS, 0, 0, setting(0x99, 1) * 2000), 128 * MB),
    "SETTINGS ACK": flood_of(frame(SETTINGS, ACK), 16 * MB),
    "SETTINGS that change windows": windows_of_open_streams,
    "PRIORITY": flood_of(frame(PRIORITY, 0, 3, bytes(5)), 32 * MB),
    "PRIORITY of ever new streams": calls_of(lambda s: frame(PRIORITY, 0, s, bytes(5)), STREAMS),
    "empty DATA": flood_of(data(1, b"", 0), 32 * MB, OPEN),
    "DATA that is all padding": flood_of(frame(DATA, PADDED, 1, b"\xff" + bytes(255)), 32 * MB, OPEN),
    "WINDOW_UPDATE by 1": flood_of(frame(WINDOW_UPDATE, 0, 0, uint32(1)), 32 * MB),
    "WINDOW_UPDATE of a stream": flood_of(frame(WINDOW_UPDATE, 0, 1, uint32(1)), 32 * MB, OPEN),
    "unknown frames": flood_of(frame(0xBE, 0, 0, bytes(100)), 64 * MB),
    "GOAWAY": flood_of(frame(GOAWAY, 0, 0, bytes(8)), 16 * MB),
    "calls of nothing": calls_of(lambda s: headers(s, flags=END_HEADERS | END_STREAM), STREAMS // 2),
    "empty messages": many_messages,
    "1,000 answers into a window of 0": zero_window,
    "1,000 answers into a window of 0, not greeted": lambda address: zero_window(address, greeted=False),
    "1,000 answers into a socket that is not read": unread_socket,
    "slow prefaces": slow_prefaces,
    "half calls": half_calls,
    "garbage": garbage,
}


# What our own grpc transport takes too much memory for; the native one for nothing.
HEAVY = {
    "HPACK bomb": "171 MB: no limit of headers holds before SETTINGS are acknowledged",
    "rapid reset, greeted": "1.1 GB: every call is started, however soon it is reset",
    "1,000 answers into a window of 0": "186 MB: 256 answers and their copies wait for a connection",
    "1,000 answers into a socket that is not read": "165 MB: 256 answers and their copies wait for a connection",
}
if not GRPC_TRANSPORT:
    HEAVY = {}


def known(reasons: Mapping[str, str], name: str, *, strict: bool = True) -> list[pytest.MarkDecorator]:
    """Marks what fails with our own server, and why; of another server it is asked all the same."""
    if name not in reasons or "FRONT_COMMAND" in os.environ:
        return []
    return [pytest.mark.xfail(reason=reasons[name], strict=strict)]


@pytest.mark.parametrize(
    "attack",
    [pytest.param(attack, id=name, marks=known(HEAVY, name, strict=False)) for name, attack in FLOODS.items()],
)
def test_flood_harms_nobody(front: Front, attack: Callable[[Address], int], record_property: Record) -> None:
    with unharmed(front, record_property):
        record_property("taken", attack(front.address))


def test_connections_beyond_the_descriptors_are_refused_and_later_taken(front: Front, record_property: Record) -> None:
    """CVE-2023-4785: a server that cannot accept goes on once it can."""
    limits = resource.prlimit(front.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(front.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, limits[1]))
    try:
        with unharmed(front, record_property, new_connections=False), ExitStack() as stack:
            for _ in range(3 * DESCRIPTORS):
                connection = stack.enter_context(socket.socket())
                connection.setblocking(False)
                connection.connect_ex(front.address)
            time.sleep(2)

        def is_served() -> bool:
            with suppress(OSError):
                return exchange(front.address, call(1), seconds=5).status == 0
            return False

        wait_until(is_served)
    finally:
        resource.prlimit(front.pid, resource.RLIMIT_NOFILE, limits)


# Single calls that are wrong in one way.

REFUSED = {"reset", "goaway", "closed", "error"}
ANY = REFUSED | {"OK"}


def outcome(reply: Reply) -> str:
    """OK, error (a gRPC or HTTP status), or how else it ended."""
    if reply.end != "answered":
        return reply.end
    return "OK" if reply.status == 0 else "error"


def gzip_bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(MB)) for _ in range(1024)) + packer.flush()
    return framed(packed, compressed=True)


def bin_header(value: str) -> bytes:
    return block(("x-trace-bin", value))


def padded_over(stream: int) -> bytes:
    return frame(DATA, PADDED | END_STREAM, stream, b"\xff" + ECHO)


MESSAGE = ECHO[5:]
FAR = 2**31 - 1
BEFORE_TRAILERS = headers(1) + data(1, flags=0)
H2C = b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"

# name: the frames, and what a server may do about stream 1
MALFORMED: dict[str, tuple[bytes, set[str]]] = {
    "nothing wrong": (call(1), {"OK"}),
    "headers of 20 KB in one field": (call(1, block(("x", "y" * 20_000))), REFUSED),
    "headers of 64 KB": (call(1, block(*[("x", "y" * 1000)] * 64)), REFUSED),
    "headers of 1 MB": (call(1, block(*[("x", "y" * 1000)] * 1000)), REFUSED),
    "te: x, over the limit": (call(1, block(("y", "z" * 9000), te="x")), REFUSED),
    "te: x, far over the limit": (call(1, block(("y", "z" * 30_000), te="x")), REFUSED),
    "scheme x, over the limit": (call(1, block(("y", "z" * 30_000), scheme="x")), REFUSED),
    "grpclb_client_stats, over the limit": (
        call(1, block(("grpclb_client_stats", "x"), ("y", "z" * 30_000))), REFUSED
    ),
    "te: x": (call(1, block(te="x")), ANY),
    "base64 of a wrong length": (call(1, bin_header("abcde")), ANY),
    "base64 of other characters": (call(1, bin_header("!not base64!")), ANY),
    "trailers in the middle": (BEFORE_TRAILERS + headers(1, literal("x", "y")) + data(1, b""), ANY),
    "trailers with a pseudo header": (
        BEFORE_TRAILERS + headers(1, literal(":path", INFER), END_HEADERS | END_STREAM), ANY
    ),
    "DATA before HEADERS": (data(1), REFUSED),
    "DATA after the end": (call(1) + data(1), ANY),
    "an even stream": (call(2) + call(1), ANY),
    "a stream id again": (call(1) + call(1), ANY),
    "a smaller stream id": (call(3) + call(1), REFUSED),
    "stream 0": (call(0) + call(1), REFUSED),
    "window update of 0": (headers(1) + frame(WINDOW_UPDATE, 0, 1, uint32(0)), REFUSED),
    "window update of 0 for all": (headers(1) + frame(WINDOW_UPDATE, 0, 0, uint32(0)), REFUSED),
    "window update of 3 bytes": (headers(1) + frame(WINDOW_UPDATE, 0, 0, b"abc"), REFUSED),
    "overflow of a stream's window": (headers(1) + frame(WINDOW_UPDATE, 0, 1, uint32(FAR)), REFUSED),
    "overflow of the connection's window": (headers(1) + frame(WINDOW_UPDATE, 0, 0, uint32(FAR)), REFUSED),
    "initial window of 2^31": (frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 2**31)) + headers(1), REFUSED),
    "window overflow by SETTINGS": (
        headers(1) + frame(WINDOW_UPDATE, 0, 1, uint32(99)) + frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, FAR)),
        REFUSED,
    ),
    "SETTINGS of 5 bytes": (frame(SETTINGS, 0, 0, bytes(5)) + call(1), REFUSED),
    "SETTINGS of a stream": (frame(SETTINGS, 0, 1) + call(1), REFUSED),
    "SETTINGS ACK with a payload": (frame(SETTINGS, ACK, 0, bytes(6)) + call(1), REFUSED),
    "PING of 7 bytes": (frame(PING, 0, 0, bytes(7)) + call(1), REFUSED),
    "RST_STREAM of an idle stream": (reset(9) + call(1), ANY),
    "PRIORITY on itself": (headers(1) + frame(PRIORITY, 0, 1, uint32(1) + b"\0") + data(1), ANY),
    "PUSH_PROMISE from a client": (headers(1) + frame(PUSH_PROMISE, 4, 1, uint32(2)) + data(1), ANY),
    "CONTINUATION alone": (frame(CONTINUATION, 4, 1, block()) + call(1), REFUSED),
    "another frame within headers": (headers(1, flags=0) + frame(PING, 0, 0, bytes(8)) + data(1), REFUSED),
    "an unknown frame": (headers(1) + frame(0xBE, 0, 1, bytes(99)) + data(1), {"OK"}),
    "an unknown frame within headers": (
        headers(1, flags=0) + frame(0xBE) + frame(CONTINUATION, 4, 1) + data(1), REFUSED
    ),
    "a frame over the limit": (headers(1) + frame(DATA, 0, 1, bytes(2**24 - 1)), REFUSED),
    "more padding than payload": (headers(1) + padded_over(1), REFUSED),
    "HPACK index 0": (headers(1, block() + b"\x80") + data(1), REFUSED),
    "HPACK index out of range": (headers(1, block() + indexed(5000)) + data(1), REFUSED),
    "HPACK table over the limit": (headers(1, integer(2**20, 5, 0x20) + block()) + data(1), REFUSED),
    "HPACK integer over 2^32": (headers(1, block() + b"\xff" + b"\xff" * 9 + b"\x7f") + data(1), REFUSED),
    "Huffman padding of zeros": (headers(1, block() + b"\x00\x01x\x82\x00\x00") + data(1), ANY),
    "headers cut short": (headers(1, block() + b"\x00\x05ab") + data(1), REFUSED),
    "an upper-case name": (call(1, block(("Upper", "x"))), ANY),
    "no path": (call(1, block(path="")), REFUSED),
    "two paths": (call(1, block((":path", "/other"))), ANY),
    "a header with a line break": (call(1, block(("x", "a\r\nb: c\0"))), ANY),
    "connection: close": (call(1, block(("connection", "close"))), ANY),
    "method GET": (call(1, block(method="GET")), REFUSED),
    "content-length too small": (call(1, block(("content-length", "3"))), ANY),
    "content-length too large": (call(1, block(("content-length", "999999"))), ANY),
    "content-length of words": (call(1, block(("content-length", "many"))), ANY),
    "a prefix of 4 GiB": (call(1, body=b"\0\xff\xff\xff\xff" + MESSAGE), REFUSED),
    "compressed without an encoding": (call(1, body=framed(MESSAGE, compressed=True)), REFUSED),
    "compressed by what nobody knows": (
        call(1, block(("grpc-encoding", "lz99")), framed(MESSAGE, compressed=True)), REFUSED
    ),
    "not what gzip makes": (call(1, block(("grpc-encoding", "gzip")), framed(MESSAGE, compressed=True)), REFUSED),
    "flag 7": (call(1, body=b"\x07" + ECHO[1:]), REFUSED),
    "two messages": (call(1, body=ECHO + ECHO), ANY),
    "no message": (call(1, body=b""), REFUSED),
    "headers alone": (headers(1, flags=END_HEADERS | END_STREAM), REFUSED),
    "half a prefix": (call(1, body=ECHO[:3]), REFUSED),
    "half a message": (call(1, body=ECHO[:-3]), REFUSED),
    "a prefix in five frames": (
        headers(1) + b"".join(data(1, ECHO[i : i + 1], 0) for i in range(5)) + data(1, ECHO[5:]), {"OK"}
    ),
    "a message a byte at a time": (
        headers(1) + b"".join(data(1, bytes([byte]), 0) for byte in ECHO) + data(1, b""), {"OK"}
    ),
    "not protobuf": (call(1, body=framed(b"\xff" * 50)), REFUSED),
}  # fmt: skip


# What the gRPC core of our own grpc transport lets pass, against the standard.
LENIENT = {
    "DATA before HEADERS": "ignored",
    "a smaller stream id": "ignored",
    "stream 0": "ignored",
    "overflow of a stream's window": "ignored",
    "overflow of the connection's window": "ignored",
    "window overflow by SETTINGS": "ignored",
    "compressed without an encoding": "read as plain",
    "no message": "grpc.aio waits until the caller's deadline",
    "headers alone": "grpc.aio waits until the caller's deadline",
    "half a prefix": "grpc.aio waits until the caller's deadline",
    "half a message": "grpc.aio waits until the caller's deadline",
}
if not GRPC_TRANSPORT:
    LENIENT = {"a smaller stream id": "nghttp2 ignores it, as trailers of a stream that is closed"}


@pytest.mark.parametrize(
    ("frames", "allowed", "patience"),
    [
        pytest.param(*case, 5 if known(LENIENT, name) else WAIT, id=name, marks=known(LENIENT, name))
        for name, case in MALFORMED.items()
    ],
)
def test_malformed_call(
    front: Front, frames: bytes, allowed: set[str], patience: float, record_property: Record
) -> None:
    with wired(front.address) as wire:
        wire.send(frames)
        reply = wire.reply(1, patience)
        record_property("outcome", f"{outcome(reply)} {reply.status}")
    assert front.alive, "the server has died"
    assert exchange(front.address, call(1)).status == 0
    assert outcome(reply) in allowed


@pytest.mark.parametrize(
    "greeting",
    [
        bytes.fromhex("16030100c8010000c40303") + bytes(195),
        b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        H2C,
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\0" * 5000,
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" * 2,
    ],
    ids=["TLS", "HTTP/1.1", "h2c upgrade", "wrong preface", "zeros", "SSH"],
)
def test_what_is_not_http2_is_hung_up_on(front: Front, greeting: bytes) -> None:
    with wired(front.address, preface=b"") as wire:
        wire.send(greeting)
        assert wire.reply(1).end in {"goaway", "closed"}
    assert exchange(front.address, call(1)).status == 0


# One connection that a proxy shares among its clients: what one of them sends must not hurt the next.

SHARED: dict[str, bytes] = {
    "bad base64 (CVE-2023-32732)": call(1, bin_header("!not base64!")),
    "bad base64 that is indexed (CVE-2024-7246)": call(1, block() + literal("x-a-bin", "!bad!", indexed=True)),
    "headers over the limit (CVE-2023-32731)": call(1, literal("x", "y" * 30_000) + block()),
    "many headers over the limit (CVE-2023-32731)": call(1, literal("x", "y" * 100) * 500 + block()),
    "te: x": call(1, block(te="x")),
    "a prefix of 4 GiB": call(1, body=b"\0\xff\xff\xff\xff"),
    "compressed without an encoding": call(1, body=framed(MESSAGE, compressed=True)),
    "not protobuf": call(1, body=framed(b"\xff" * 50)),
    "content-length too small": call(1, block(("content-length", "3"))),
    "a long path": call(1, block(path="/" + "x" * 5000)),
}


@pytest.mark.parametrize("frames", SHARED.values(), ids=SHARED)
def test_next_caller_on_a_shared_connection_is_served(front: Front, frames: bytes, record_property: Record) -> None:
    """The next call refers to a header that came into the dynamic table just behind what was refused."""
    mark = literal("x-mark", "1", indexed=True)
    with wired(front.address) as wire:
        wire.send(frames)
        first = wire.reply(1)
        wire.send(call(3, block() + mark) + call(5, block() + indexed(62)))
        replies = [wire.reply(3), wire.reply(5)]
        record_property("outcome", f"{outcome(first)} {first.status}, then {[outcome(reply) for reply in replies]}")
    assert [outcome(reply) for reply in replies] == ["OK", "OK"]


def test_table_is_kept_over_a_refused_block(front: Front, record_property: Record) -> None:
    """CVE-2023-32731: an entry in the same block as what was refused is there for the next call."""
    mark = literal("x-mark", "1", indexed=True)
    with wired(front.address) as wire:
        wire.send(call(1, block() + literal("x", "y" * 30_000) + mark))
        first = wire.reply(1)
        wire.send(call(3, block() + indexed(62)))
        reply = wire.reply(3)
        record_property("outcome", f"{outcome(first)} {first.status}, then {outcome(reply)}")
    assert outcome(reply) == "OK"


def test_window_below_zero_and_back(front: Front) -> None:
    with wired(front.address, setting(INITIAL_WINDOW_SIZE, 1000)) as wire:
        wire.send(call(1, body=WIDE))
        wait_until(lambda: wire.reply(1, 0.1).size == 1000)
        wire.send(frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 0)))
        wire.send(frame(WINDOW_UPDATE, 0, 1, uint32(2**20)) + frame(WINDOW_UPDATE, 0, 0, uint32(2**20)))
        reply = wire.reply(1)
    assert outcome(reply) == "OK"
    assert reply.size > 65_536 * 4


def test_gzip_bomb_is_not_unpacked(front: Front, record_property: Record) -> None:
    with unharmed(front, record_property), wired(front.address) as wire:
        bomb = gzip_bomb()  # 1 GiB of zeros in 1 MB, sent within the window
        wire.send(headers(1, block(("grpc-encoding", "gzip"))))
        wire.send(frame(PING, 0, 0, bytes(8)))
        for start in range(0, len(bomb), 2**14):
            wire.reply(1, 0.02)
            last = start + 2**14 >= len(bomb)
            wire.send(data(1, bomb[start : start + 2**14], END_STREAM if last else 0))
        assert outcome(wire.reply(1)) in REFUSED
