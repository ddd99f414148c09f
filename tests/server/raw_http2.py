"""An HTTP/2 client that can misbehave."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes

from tests.waiting import WAIT

Header = tuple[str, str]
FRAME_HEADER, GOAWAY = 9, 7


def framed(message: bytes, compressed: bool = False) -> bytes:
    return struct.pack(">BI", compressed, len(message)) + message


def unframed(body: bytes) -> list[bytes]:
    messages = []
    while body:
        (length,) = struct.unpack(">I", body[1:5])
        messages.append(body[5 : 5 + length])
        body = body[5 + length :]
    return messages


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: str = ""  # "end", "reset", "closed" or "" while it goes on

    @property
    def status(self) -> int:
        return int(self.headers["grpc-status"])


class Connection:
    """One connection.

    Args:
        window: initial flow-control window of each stream; the connection's own is never what limits.
    """

    def __init__(self, target: str, window: int | None = None) -> None:
        host, port = target.split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=WAIT)
        config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
        self.http = h2.connection.H2Connection(config)
        self.http.initiate_connection()
        if window is not None:
            self.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.http.increment_flow_control_window(2**30)
        self.answers: dict[int, Answer] = {}
        self.told_to_go = False
        self._unparsed = b""
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.http.data_to_send())

    def call(self, path: str, body: bytes | None = None, *, end: bool = True, headers: Sequence[Header] = ()) -> int:
        """Start a call; later headers of the same name replace the usual ones. Returns its stream."""
        stream = self.http.get_next_available_stream_id()
        usual = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test"}
        usual |= {"te": "trailers", "content-type": "application/grpc"}
        self.answers[stream] = Answer()
        self.http.send_headers(stream, list((usual | dict(headers)).items()), end_stream=body is None and end)
        self.flush()
        if body is not None:
            self.send(stream, body, end=end)
        return stream

    def send(self, stream: int, body: bytes, *, end: bool, patience: float = WAIT) -> int:
        """Send as much of the body as the server takes without a pause of `patience` seconds; returns how much."""
        sent, deadline = 0, time.monotonic() + patience
        while sent < len(body) and time.monotonic() < deadline and not self.answers[stream].ended:
            size = min(self.http.local_flow_control_window(stream), 2**14, len(body) - sent)
            if size:
                self.http.send_data(stream, body[sent : sent + size], end_stream=end and sent + size == len(body))
                sent, deadline = sent + size, time.monotonic() + patience
                self.flush()
            else:
                self.receive(0.1)
        return sent

    def receive(self, seconds: float, *, read: bool = True) -> bool:
        """Take in what comes within that time; whether anything came. `read`: hand flow control back."""
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(2**16)
        except TimeoutError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            for answer in self.answers.values():
                answer.ended = answer.ended or "closed"
            return False
        for event in self.http.receive_data(self._without_goaway(data)):
            answer = self.answers.get(getattr(event, "stream_id", 0) or 0, Answer())
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                answer.headers |= {k.decode(): v.decode() for k, v in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data
                if read:
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                answer.ended = "end"
            elif isinstance(event, h2.events.StreamReset):
                answer.ended = answer.ended or "reset"
        self.flush()
        return True

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames but GOAWAY, after which h2 would take nothing more."""
        frames, self._unparsed = b"", self._unparsed + data
        while len(self._unparsed) >= FRAME_HEADER:
            end = FRAME_HEADER + int.from_bytes(self._unparsed[:3], "big")
            if len(self._unparsed) < end:
                break
            if self._unparsed[3] == GOAWAY:
                self.told_to_go = True
            else:
                frames += self._unparsed[:end]
            self._unparsed = self._unparsed[end:]
        return frames

    def answer(self, stream: int) -> Answer:
        """Wait until a call has ended."""
        deadline = time.monotonic() + WAIT
        while not self.answers[stream].ended and time.monotonic() < deadline:
            self.receive(max(0.01, deadline - time.monotonic()))
        return self.answers[stream]


@contextmanager
def connected(target: str, window: int | None = None) -> Iterator[Connection]:
    connection = Connection(target, window)
    try:
        yield connection
    finally:
        connection.socket.close()
