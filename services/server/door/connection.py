"""A connection of the HTTP door: uvicorn's, with time limits that uvicorn lacks."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from cryptography import x509
from google.rpc import code_pb2, status_pb2
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from services.server.addresses import network
from services.server.door.replies import JSON_TYPE, error_body

MOST_PARTS = 1000  # lines or chunks that are read at once, at some 20 us each
SOME_BYTES = 4096


@dataclass
class Bounds:
    """Bounds on connections.

    Args:
        connections: the most at once; a further one is closed.
        address_connections: the same of one network.
        header_seconds: time for the header of a request to arrive.
        reader_seconds: time in which a caller takes at least something of a response.
        age_seconds: age after which a response is a connection's last; 0 = no bound.
        leaving: whether every response is its connection's last.
        counts: connections by network.
    """

    connections: int
    address_connections: int
    header_seconds: float
    reader_seconds: float
    age_seconds: float
    leaving: bool = False
    counts: Counter[str] = field(default_factory=Counter)


class Connection(H11Protocol):
    """Serves the requests of one connection, who find it in `scope["state"]["connection"]`.

    Attributes:
        peer: the caller's address, as gRPC writes it.
        subject: of the caller's certificate; empty if it has none.
        call: the task that answers the current request, cancelled when the caller goes away.
        lost: whether the caller has gone away.
    """

    peer = subject = ""
    _network = ""
    call: asyncio.Task[Any] | None = None
    lost = False

    def __init__(self, bounds: Bounds, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {"connection": self})
        self._bounds = bounds
        self._header_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._waiting = bytearray()
        self._reading: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.made = self.loop.time()
        if self.client is not None:
            host, port = self.client
            self._network = network(host)
            self.peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
        bounds = self._bounds
        bounds.counts[self._network] += 1
        if len(self.connections) > bounds.connections or bounds.counts[self._network] > bounds.address_connections:
            transport.abort()
            return
        if (tls := transport.get_extra_info("ssl_object")) and (certificate := tls.getpeercert(binary_form=True)):
            self.subject = _name(x509.load_der_x509_certificate(certificate))
        self._watch_header()

    def data_received(self, data: bytes) -> None:
        """Read what came; of many tiny parts, each of which takes time, only some before others have their turn."""
        if self._waiting or data.count(b"\r\n") > MOST_PARTS:
            self._waiting += data
            self._read_on()  # uvicorn may have resumed the transport meanwhile
            return
        super().data_received(data)
        self._watch_header()

    def _read_on(self) -> None:
        self.transport.pause_reading()
        if self._reading is None:
            self._reading = self.loop.call_soon(self._read_some)

    def _read_some(self) -> None:
        self._reading = None
        if self.lost or self.transport.is_closing():
            self._waiting.clear()
            return
        some = bytes(self._waiting[:SOME_BYTES])
        del self._waiting[:SOME_BYTES]
        super().data_received(some)
        self._watch_header()
        if self._waiting:
            self._read_on()
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._bounds.counts[self._network] -= 1
        if not self._bounds.counts[self._network]:
            del self._bounds.counts[self._network]
        for timer in (self._header_timer, self._reader_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self.app_state = {}  # which refers to this
        if self.call is not None:
            self.call.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
        self._watch_last()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_header()
        self._watch_last()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_last()

    def shutdown(self) -> None:
        super().shutdown()
        self._watch_last()

    def send_400_response(self, msg: str) -> None:
        """Replaces uvicorn's text, of what is no HTTP or has too large headers, by a status."""
        size = self.config.h11_max_incomplete_event_size
        body = error_body(
            status_pb2.Status(
                code=code_pb2.INVALID_ARGUMENT,
                message=f"this is not a valid HTTP/1.1 request, or its headers have more than {size} bytes",
            )
        )
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers = [
                ("content-type", JSON_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._watch_last()

    @property
    def ends(self) -> bool:
        """Whether the next response is the last, since the connection is old or its caller is to go elsewhere."""
        age = self._bounds.age_seconds
        return self._bounds.leaving or bool(age and self.loop.time() - self.made > age)

    def _watch_header(self) -> None:
        """Give the caller some time to send the header of a request, or the rest of one that was refused."""
        waits = self.cycle is None or self.cycle.response_complete
        idle = self.timeout_keep_alive_task is not None and self.conn.their_state is h11.IDLE
        if not waits or idle:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self._bounds.header_seconds, self.transport.abort)

    def _watch_last(self) -> None:
        """Watch the reader of what is left on a connection that closes, which stays open until that is sent."""
        if self.transport.is_closing() and self._reader_timer is None and not self.lost:
            self._watch_reader(self.transport.get_write_buffer_size())

    def _watch_reader(self, unsent: int) -> None:
        """Give up a caller who takes nothing of a response for some time."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left >= unsent:
                self.transport.abort()
            else:
                self._watch_reader(left)

        self._reader_timer = self.loop.call_later(self._bounds.reader_seconds, look)


def _name(certificate: x509.Certificate) -> str:
    """The certificate's subject, or its first alternative name if it has no subject, as with SPIFFE."""
    if certificate.subject.rdns:
        return certificate.subject.rfc4514_string()
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return str(next(iter(names)).value)
