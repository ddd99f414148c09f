"""`POST /package.Service/Method`: RPCs with JSON bodies, as Envoy's transcoder serves them with `auto_mapping`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from services import budget
from services.errors import DeadlineExceeded, ResourceExhausted, ServiceError
from services.rpc import Call
from services.server.door.exchange import Exchange, MethodNotAllowed, TooLarge, UnsupportedType
from services.server.door.forms import FORM, FormWire
from services.server.door.json_wire import JSON, MOST_TO_ONE
from services.server.door.replies import JSON_TYPE, error_body
from services.server.pipeline import INLINE_BYTES, Arriving, Endpoint, StatusError, Wire, until_deadline
from services.server.settings import Settings

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
EVENT_HEADERS = (("cache-control", "no-store"), ("x-accel-buffering", "no"))  # no proxy may hold events back


class Calls:
    """Answers requests from endpoints.

    Args:
        endpoints: by path, `/package.Service/Method`.
    """

    def __init__(self, settings: Settings, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._most = int(settings.limits.message_bytes * MOST_TO_ONE)
        self._seconds = settings.http_body_seconds

    def endpoint(self, path: str) -> Endpoint | None:
        return self._endpoints.get(path)

    async def answer(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Answer a request to this endpoint's path."""
        try:
            if exchange.method != "POST":
                raise MethodNotAllowed(exchange.method, "POST")
            call = exchange.call(endpoint)
            wire = FormWire(exchange.headers["content-type"]) if exchange.kind == FORM else JSON
            if not endpoint.method.server_streaming:
                body = await unary(endpoint, self._request(exchange), call, wire, self._most)
                await exchange.reply(body)
            elif endpoint.method.client_streaming:
                await self._stream(exchange, call, endpoint.bidi_stream(self._requests(exchange), call, JSON))
            else:
                await self._stream(exchange, call, endpoint.server_stream(self._request(exchange), call, wire))
        except (StatusError, ServiceError) as error:
            await exchange.reply_error(error)

    def _request(self, exchange: Exchange) -> Arriving:
        body = exchange.body(self._most)

        async def read() -> bytes:
            if body.length and exchange.kind not in (JSON_TYPE, FORM):
                raise UnsupportedType(f"the body is {exchange.kind or 'of no type'}; send {JSON_TYPE} or {FORM}")
            return await body.read()

        return Arriving(body.length, read)

    async def _requests(self, exchange: Exchange) -> AsyncIterator[bytes]:
        """The messages of a stream: a JSON object a line."""
        if exchange.kind != LINES:
            raise UnsupportedType(f"the body is {exchange.kind or 'of no type'}; send {LINES}: a JSON object a line")
        line = Line(self._most, self._seconds)
        try:
            async for chunk in exchange.chunks(endless=True):
                first, *ends = chunk.split(b"\n")
                if ends:
                    rest = ends.pop()
                    for whole in filter(None, map(bytes.strip, (line.ended(first), *ends))):
                        yield whole
                    first = rest
                await line.grow(first)
            if whole := line.ended(b"").strip():
                yield whole
        finally:
            line.ended(b"")

    async def _stream(self, exchange: Exchange, call: Call, responses: AsyncGenerator[bytes, None]) -> None:
        """Send responses as server-sent events if the caller asks for them, else as a JSON object a line."""
        events = EVENTS in exchange.headers.get("accept", "")
        kind, headers = (EVENTS, EVENT_HEADERS) if events else (JSON_TYPE, ())
        try:
            async with until_deadline(call), aclosing(responses):
                async for response in responses:
                    if not exchange.began:
                        await exchange.begin(kind, headers)
                    await exchange.write(b"data: %b\n\n" % response if events else response + b"\n")
            if not exchange.began:
                await exchange.begin(kind, headers)
        except (StatusError, TimeoutError) as error:
            failed = error if isinstance(error, StatusError) else late()
            if not exchange.began:
                raise failed from error
            status = error_body(failed.status)
            await exchange.write(b"event: error\ndata: %b\n\n" % status if events else b'{"error":%b}\n' % status)
        await exchange.end()


class Line:
    """A line that arrives in parts; memory is held for a long one, which must not arrive for ever.

    Args:
        most: bytes that it may have.
        seconds: for the rest of a long one to arrive.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._content = bytearray()
        self._held, self._end = 0, 0.0

    async def grow(self, part: bytes) -> None:
        """Append a part.

        Raises:
            TooLarge, DeadlineExceeded: the line is too long, or takes too long.
        """
        self._content += part
        if len(self._content) > self._most:
            raise TooLarge(f"a line has more than {self._most:,} bytes, the most")
        if self._held:
            if time.monotonic() > self._end:
                raise DeadlineExceeded(f"a line did not arrive within {self._seconds:g} s (LECTERN_HTTP_BODY_SECONDS)")
        elif len(self._content) > INLINE_BYTES:
            amount = min(self._most, budget.arriving.total)
            await budget.arriving.take(amount, "line")
            self._held, self._end = amount, time.monotonic() + self._seconds

    def ended(self, part: bytes) -> bytes:
        """The whole line, of which this is the last part; the next one begins, and nothing is held."""
        whole = bytes(self._content + part)
        self._content.clear()
        budget.arriving.give_back(self._held)
        self._held = 0
        return whole


async def unary(endpoint: Endpoint, request: Arriving | bytes, call: Call, wire: Wire, most: int) -> bytes:
    """The response to one request, which may have so many bytes.

    Raises:
        StatusError: the call failed. ResourceExhausted: the response is larger.
    """
    try:
        async with until_deadline(call):
            body = await endpoint.unary(request, call, wire)
    except TimeoutError:
        raise late() from None
    if len(body) > most:
        raise ResourceExhausted(f"the response has {len(body):,} bytes; the most is {most:,}")
    return body


def late() -> StatusError:
    return StatusError(DeadlineExceeded("the deadline passed").status())
