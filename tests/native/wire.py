"""HTTP/2 by hand: frames and header blocks that no library would write, and what a server does about them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import hpack
import numpy as np
from tritonclient.grpc import service_pb2

from tests.server.raw_http2 import framed
from tests.waiting import WAIT


def infer_request(model: str) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="features", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.float32(7).tobytes())
    return request


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
INITIAL_WINDOW_SIZE, HEADER_TABLE_SIZE = 4, 1
INFER = "/inference.GRPCInferenceService/ModelInfer"
ECHO = framed(infer_request("echo").SerializeToString())
WIDE = framed(infer_request("wide").SerializeToString())
PIECE = 2**16  # bytes in one sendall of a flood
FLOOD_SECONDS = 20  # of a flood that a server takes slowly

Header = tuple[str, str]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def uint32(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(key: int, value: int) -> bytes:
    return struct.pack(">HI", key, value)


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """HPACK's integer of a prefix of `bits`, the bits before it taken from `first` (RFC 7541, 5.1)."""
    most = 2**bits - 1
    if value < most:
        return bytes([first | value])
    encoded, value = bytes([first | most]), value - most
    while value >= 128:
        encoded, value = encoded + bytes([value % 128 + 128]), value // 128
    return encoded + bytes([value])


def literal(name: str, value: str, *, indexed: bool = False) -> bytes:
    """A header field as plain text, put into the dynamic table if `indexed`."""
    start = b"\x40" if indexed else b"\x00"
    return start + b"".join(integer(len(text), 7) + text.encode() for text in (name, value))


def indexed(entry: int) -> bytes:
    """A reference to an entry: 1 to 61 are static, 62 is the newest of the dynamic table."""
    return integer(entry, 7, 0x80)


def block(*more: Header, **replaced: str) -> bytes:
    """The header block of a good ModelInfer call that leaves the dynamic table alone; "" drops a field."""
    names = {"method": ":method", "scheme": ":scheme", "path": ":path", "authority": ":authority", "te": "te"}
    usual = {"method": "POST", "scheme": "http", "path": INFER, "authority": "test", "te": "trailers"} | replaced
    fields = [(names[key], value) for key, value in usual.items() if value]
    return b"".join(literal(*field) for field in [*fields, ("content-type", "application/grpc"), *more])


def headers(stream: int, encoded: bytes | None = None, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, block() if encoded is None else encoded)


def data(stream: int, payload: bytes = ECHO, flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, stream, payload)


def call(stream: int, encoded: bytes | None = None, body: bytes = ECHO) -> bytes:
    """A whole call; blocks over 16 KiB go on in CONTINUATION frames, bodies in more DATA frames."""
    encoded = block() if encoded is None else encoded
    blocks = [encoded[i : i + 2**14] for i in range(0, len(encoded), 2**14)]
    bodies = [body[i : i + 2**14] for i in range(0, len(body), 2**14)] or [b""]
    frames = headers(stream, blocks[0], END_HEADERS if len(blocks) == 1 else 0)
    for i, piece in enumerate(blocks[1:], 2):
        frames += frame(CONTINUATION, END_HEADERS if i == len(blocks) else 0, stream, piece)
    for i, piece in enumerate(bodies, 1):
        frames += data(stream, piece, END_STREAM if i == len(bodies) else 0)
    return frames


@dataclass
class Reply:
    """What a server did about one stream.

    Attributes:
        end: "answered", "reset", "goaway", "closed", or "silent" while nothing came.
        status: grpc-status, or -1.
    """

    end: str = "silent"
    status: int = -1
    http_status: int = -1
    size: int = 0


class Wire:
    """One connection. Nothing is sent that the caller did not write, but for the ACK of SETTINGS.

    Args:
        greeted: wait for the server's SETTINGS and acknowledge them. Until then gRPC's core sets no limit to headers
            and streams, so most floods do not.
    """

    def __init__(
        self, address: tuple[str, int], settings: bytes = b"", preface: bytes = PREFACE, *, greeted: bool = True
    ) -> None:
        self.socket = socket.create_connection(address, timeout=WAIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = hpack.Decoder()
        self._unread = b""
        self.replies: dict[int, Reply] = {}
        self.gone = ""
        self._greeted = False
        if preface:
            self.send(preface + frame(SETTINGS, 0, 0, settings))
            deadline = time.monotonic() + WAIT
            while greeted and not self._greeted and not self.gone:
                self._receive(deadline)
                if time.monotonic() > deadline:
                    raise TimeoutError("the server sent no SETTINGS")

    def send(self, content: bytes, patience: float = WAIT) -> bool:
        """Whether the server took it all; not, if it has closed the connection or took nothing for `patience` s."""
        self.socket.settimeout(patience)
        try:
            self.socket.sendall(content)
        except OSError:
            return False
        return True

    def flood(self, piece: bytes, size: int, patience: float = 3) -> int:
        """Send a piece again and again, up to `size` bytes, without reading; returns how many were taken."""
        pieces, sent, end = piece * max(1, PIECE // len(piece)), 0, time.monotonic() + FLOOD_SECONDS
        while sent < size and time.monotonic() < end and self.send(pieces, patience):
            sent += len(pieces)
        return sent

    def reply(self, stream: int, seconds: float = WAIT) -> Reply:
        """Wait until a stream or the connection has ended."""
        deadline = time.monotonic() + seconds
        reply = self.replies.setdefault(stream, Reply())
        while reply.end == "silent" and not self.gone and time.monotonic() < deadline:
            self._receive(deadline)
        if reply.end == "silent" and self.gone:
            reply.end = self.gone
        return reply

    def _receive(self, deadline: float) -> None:
        self.socket.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            chunk = self.socket.recv(2**16)
        except TimeoutError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.gone = self.gone or "closed"
        self._unread += chunk
        while len(self._unread) >= 9:
            end = 9 + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < end:
                return
            kind, flags = self._unread[3:5]
            stream = int.from_bytes(self._unread[5:9], "big") & 0x7FFFFFFF
            self._take(kind, flags, stream, self._unread[9:end])
            self._unread = self._unread[end:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        reply = self.replies.setdefault(stream, Reply())
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK))
            self._greeted = True
        elif kind == GOAWAY and payload[4:8] != bytes(4):  # an error: nothing more is answered
            self.gone = "goaway"
        elif kind == RST_STREAM and reply.end == "silent":
            reply.end = "reset"
        elif kind == DATA:
            reply.size += len(payload)
        elif kind == HEADERS:
            for name, value in self._decoder.decode(payload):
                if name == "grpc-status":
                    reply.status = int(value)
                elif name == ":status":
                    reply.http_status = int(value)
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            reply.end = "answered"


@contextmanager
def wired(
    address: tuple[str, int], settings: bytes = b"", preface: bytes = PREFACE, *, greeted: bool = True
) -> Iterator[Wire]:
    wire = Wire(address, settings, preface, greeted=greeted)
    try:
        yield wire
    finally:
        wire.socket.close()


def exchange(
    address: tuple[str, int], frames: Sequence[bytes] | bytes, stream: int = 1, seconds: float = WAIT
) -> Reply:
    """What a server does about some frames on a connection of their own."""
    with wired(address) as wire:
        wire.send(frames if isinstance(frames, bytes) else b"".join(frames))
        return wire.reply(stream, seconds)
