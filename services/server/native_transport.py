"""h2corn: HTTP/2 in Rust, outside the GIL; gRPC spoken over it as one ASGI application.

Specification: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. What this transport takes and what it
does not is in docs/transport.md. h2corn cancels a call's task when its caller goes away, stops reading a body that
nobody takes, and makes `send` wait while the caller does not read.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from typing import Any, Literal
from urllib.parse import quote

from google.rpc import status_pb2
from h2corn import Config
from h2corn import Server as HttpServer

from services.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, ServiceError, Unimplemented
from services.rpc import REQUEST_ID, Call, accepted_request_id, merged
from services.server.pipeline import Endpoint, StatusError

PREFIX_BYTES = 5  # compressed flag and length, before each message
STREAMS_PER_CONNECTION = 1024
HEADER_BYTES = 16 * 2**10
IDLE_SECONDS = 3600.0
LINGER_SECONDS = 1.0
PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if c != ord("%"))  # of a grpc-message, the rest is percent-encoded
TIMEOUT_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
TRANSPORT_HEADERS = {b"te", b"content-type", b"host", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity")],
    "trailers": True,
}
END_OF_BODY = {"type": "http.response.body"}
NOT_GRPC = {"type": "http.response.start", "status": 415}
OK = (b"grpc-status", b"0")
NO_DEADLINE = nullcontext()

Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

log = logging.getLogger(__name__)


class Server:
    """Serves in plaintext; see `services.server.transport.Transport`.

    Args:
        log_format: of h2corn's own few lines on standard error.
    """

    def __init__(self, message_bytes: int, drain_seconds: float, log_format: Literal["text", "json"]) -> None:
        self._limit = message_bytes
        self._drain_seconds = drain_seconds
        self._log_format = log_format
        self._endpoints: dict[str, Endpoint] = {}

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        self._endpoints |= {f"/{e.method.service}/{e.method.name}": e for e in endpoints}

    async def start(self, host: str, port: int) -> int:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family, backlog=1024, reuse_port=True) as listener:
            config = Config(
                bind=(f"fd://{listener.fileno()}",),
                grpc=True,
                http1=False,
                lifespan="off",
                access_log=False,
                date_header=False,
                log_format=self._log_format,
                max_concurrent_streams=STREAMS_PER_CONNECTION,
                h2_max_header_list_size=HEADER_BYTES,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=self._drain_seconds,
            )
            self._http = HttpServer(self._answer, config)
            self._serving = asyncio.create_task(self._http.serve())
            await self._http.wait_started()
            return int(listener.getsockname()[1])

    async def stop(self) -> None:
        self._http.shutdown()
        try:
            await self._serving
        except RuntimeError as error:
            log.warning("%s", error)

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        """One call, as an ASGI application."""
        headers = dict(scope["headers"])
        if scope["method"] != "POST" or not _is_grpc(headers.get(b"content-type", b"")):
            await send(NOT_GRPC)
            await send({"type": "http.response.body"})
            return
        endpoint = self._endpoints.get(scope["path"])
        call = _call(endpoint, scope, headers)
        reply = _Reply(send, self._limit, call.request_id)
        try:
            if endpoint is None:
                raise Unimplemented(f"there is no method {scope['path']}")
            async with _deadline(call):
                await self._run(endpoint, call, receive, reply)
        except TimeoutError:
            await reply.fail(DeadlineExceeded("the deadline passed").status())
        except ServiceError as error:
            await reply.fail(error.status())
        except StatusError as error:
            await reply.fail(error.status)
        except OSError:  # from `send`: the caller went away
            return

    async def _run(self, endpoint: Endpoint, call: Call, receive: Receive, reply: _Reply) -> None:
        requests = _Requests(receive, self._limit)
        if not endpoint.method.server_streaming:
            await reply.send(await endpoint.unary(await requests.only(), call))
        else:
            if endpoint.method.client_streaming:
                responses = endpoint.bidi_stream(requests.all(), call)
            else:
                responses = endpoint.server_stream(await requests.only(), call)
            async with aclosing(responses):
                async for response in responses:
                    await reply.send(response)
        await reply.end((OK,))


class _Requests:
    """The messages in a request's body."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._task = asyncio.current_task()
        self._read, self._start = b"", 0  # what was read, and where the next message starts in it
        self._ended = False

    async def only(self) -> bytes:
        """The message of a caller who sends one."""
        message = await self._next()
        await self._read_on(1)  # to the body's end, if it is good
        if message is None or self._left:
            raise InvalidArgument("the request is not one gRPC message")
        return message

    async def all(self) -> AsyncIterator[bytes]:
        """Each message, read when it is asked for."""
        while (message := await self._next()) is not None:
            yield message

    @property
    def _left(self) -> int:
        return len(self._read) - self._start

    async def _next(self) -> bytes | None:
        """The next message; None after the last.

        Raises:
            ResourceExhausted: it says that it is larger than the limit; it is not read then.
        """
        await self._read_on(PREFIX_BYTES)
        if not self._left:
            return None
        prefix = self._read[self._start : self._start + PREFIX_BYTES]
        if prefix[0]:
            raise Unimplemented("compressed messages are not taken by this transport: send them uncompressed")
        length = int.from_bytes(prefix[1:], "big")
        if length > self._limit:
            raise ResourceExhausted(f"the message has {length} bytes; the most is {self._limit}")
        await self._read_on(PREFIX_BYTES + length)
        if len(prefix) < PREFIX_BYTES or self._left < PREFIX_BYTES + length:
            raise InvalidArgument("the request ends within a message")
        start, self._start = self._start + PREFIX_BYTES, self._start + PREFIX_BYTES + length
        return self._read[start : self._start]

    async def _read_on(self, wanted: int) -> None:
        """Read until `wanted` bytes are left, or the body ends."""
        if self._left >= wanted or self._ended:
            return
        chunks, size = [self._read[self._start :]], self._left
        while size < wanted and not self._ended:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                # Who reads may be a task that the call's own waits for.
                if self._task is not None:
                    self._task.cancel()
                raise asyncio.CancelledError
            chunks.append(event.get("body", b""))
            size += len(chunks[-1])
            self._ended = not event.get("more_body", False)
        self._read, self._start = b"".join(chunks), 0


class _Reply:
    """Messages and status of one call."""

    __slots__ = ("_limit", "_request_id", "_send", "_started")

    def __init__(self, send: Send, limit: int, request_id: str) -> None:
        self._send, self._limit, self._request_id = send, limit, request_id
        self._started = False

    async def send(self, message: bytes) -> None:
        """Send a message, waiting while the caller does not read."""
        if len(message) > self._limit:
            raise ResourceExhausted(f"the response has {len(message)} bytes; the most is {self._limit}")
        await self._start()
        body = b"\0" + len(message).to_bytes(4, "big") + message
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, status: Sequence[Header]) -> None:
        """End with a status."""
        await self._start()
        await self._send(END_OF_BODY)
        trailers = [*status, (REQUEST_ID.encode(), self._request_id.encode())]
        await self._send({"type": "http.response.trailers", "headers": trailers})

    async def fail(self, status: status_pb2.Status) -> None:
        """End with an error; a caller who does not even read that is let go."""
        details = base64.b64encode(status.SerializeToString()).rstrip(b"=")
        headers = [
            (b"grpc-status", b"%d" % status.code),
            (b"grpc-message", quote(status.message, PLAIN).encode()),
            (b"grpc-status-details-bin", details),
        ]
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self.end(headers)

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send(START)


def _is_grpc(content_type: bytes) -> bool:
    return content_type == b"application/grpc" or content_type.startswith((b"application/grpc+", b"application/grpc;"))


def _deadline(call: Call) -> AbstractAsyncContextManager[object]:
    if call.deadline == float("inf"):
        return NO_DEADLINE
    remaining = call.deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    # Timers of the loop are up to a millisecond early.
    return asyncio.timeout(remaining + 1e-3)


def _call(endpoint: Endpoint | None, scope: Any, headers: Mapping[bytes, bytes]) -> Call:
    metadata = merged(
        (key.decode(), value.decode("latin-1"))
        for key, value in scope["headers"]
        if key not in TRANSPORT_HEADERS and not key.endswith(b"-bin")
    )
    host, port = scope["client"]
    return Call(
        service=endpoint.method.service if endpoint else "",
        method=endpoint.method.name if endpoint else "",
        deadline=time.monotonic() + _timeout(headers.get(b"grpc-timeout", b"")),
        request_id=accepted_request_id(metadata.get(REQUEST_ID, "")),
        peer=f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}",
        metadata=metadata,
    )


def _timeout(header: bytes) -> float:
    """Seconds that a `grpc-timeout` stands for; `inf` without one."""
    digits, unit = header[:-1], header[-1:]
    if not (digits.isdigit() and len(digits) <= 8 and unit in TIMEOUT_UNITS):
        return float("inf")
    return int(digits) * TIMEOUT_UNITS[unit]
