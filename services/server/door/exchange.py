"""One HTTP request and its response, as the call of an endpoint."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

from google.rpc import status_pb2
from starlette.types import Message, Receive, Scope, Send

from services import budget
from services.errors import Cancelled, DeadlineExceeded, InvalidArgument, ResourceExhausted, ServiceError, Unimplemented
from services.rpc import REQUEST_ID, Call, accepted_request_id, merged
from services.server.compression import inflated
from services.server.door import replies
from services.server.door.connection import Connection
from services.server.door.replies import Headers
from services.server.pipeline import Arriving, Endpoint, StatusError
from services.server.settings import Settings

INFERENCE = "/v2"
TIMEOUT = "grpc-timeout"
TIMEOUT_FORM = re.compile(r"(\d{1,8})([HMSmun])")  # of gRPC over HTTP/2, which Envoy and grpc-gateway take too
UNIT_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
METHOD_NOT_ALLOWED, CONTENT_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE = 405, 413, 415


class TooLarge(ResourceExhausted):
    """The body is larger than any request may be."""


class UnsupportedType(InvalidArgument):
    """The body is of a type that is not read."""


class MethodNotAllowed(Unimplemented):
    """The path is served by other HTTP methods."""

    def __init__(self, method: str, *allowed: str) -> None:
        super().__init__(f"{method} is not served here; send {' or '.join(allowed)}")
        self.allowed = allowed


HTTP_CODES_OF_ERRORS = (
    (TooLarge, CONTENT_TOO_LARGE),
    (UnsupportedType, UNSUPPORTED_MEDIA_TYPE),
    (MethodNotAllowed, METHOD_NOT_ALLOWED),
)


class Exchange:
    """One request and its response.

    Attributes:
        headers: of the request; the values of a repeated one are joined.
        kind: media type of its body, in lower case.
        is_inference: whether it is one of the Open Inference Protocol.
        began: whether the response has begun.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: Settings) -> None:
        self._receive, self._send, self._settings = receive, send, settings
        self._arrived = time.monotonic()
        self.connection: Connection = scope["state"]["connection"]
        self.method, self.path = scope["method"], scope["path"]
        self.headers = merged((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        self.kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        self._encoding = self.headers.get("content-encoding", "").lower().removeprefix("identity")
        self.request_id = accepted_request_id(self.headers.get(REQUEST_ID, ""))
        self.is_inference = self.path == INFERENCE or self.path.startswith(f"{INFERENCE}/")
        self._has_encoded_slash = b"%2f" in scope["raw_path"].lower()
        self._has_two_lengths = {"content-length", "transfer-encoding"} <= self.headers.keys()
        self.began = False

    def check_form(self) -> None:
        """Check that a proxy in front reads the request as this server does: where its path and its body end.

        Raises:
            InvalidArgument: the body has two lengths, or the path an encoded slash.
        """
        if self._has_encoded_slash:
            raise InvalidArgument("the path has an encoded slash, %2F; send /")
        if self._has_two_lengths:
            raise InvalidArgument("the request has both content-length and transfer-encoding; send one of them")

    def call(self, endpoint: Endpoint) -> Call:
        """The call of an endpoint.

        Raises:
            InvalidArgument: its time limit is malformed.
        """
        return Call(
            service=endpoint.method.service,
            method=endpoint.method.name,
            deadline=self._deadline(),
            request_id=self.request_id,
            peer=self.connection.peer,
            metadata=self.headers,
            client=self.connection.subject,
        )

    def _deadline(self) -> float:
        given = self.headers.get(TIMEOUT)
        if given is None:
            return float("inf")
        form = TIMEOUT_FORM.fullmatch(given)
        if form is None:
            raise InvalidArgument(f"the header {TIMEOUT} is {given!r}; send e.g. 5S or 200m, for milliseconds")
        return self._arrived + int(form[1]) * UNIT_SECONDS[form[2]]

    def body(self, most: int) -> Arriving:
        """The body, which may have so many bytes; reading it raises `TooLarge` if it has more."""
        given = self.headers.get("content-length")
        # uvicorn has checked that it is a number.
        if given is None and "transfer-encoding" not in self.headers:
            return Arriving(0, self._nothing)
        length = most if given is None else int(given)
        if length > most:
            return Arriving(0, lambda: self._read(length, most))
        if given is None or self._encoding:  # nobody knows how much it becomes
            most = length = min(most, budget.arriving.total)
        return Arriving(length, lambda: self._read(length, most))

    async def _nothing(self) -> bytes:
        return b""

    async def _read(self, length: int, most: int) -> bytes:
        content = bytearray()
        if length <= most:
            async for chunk in self.chunks():
                content += chunk
                if len(content) > most:
                    break
        if max(length, len(content)) > most:
            raise TooLarge(f"the body has more than {most:,} bytes, the most")
        if not self._encoding:
            return bytes(content)
        try:
            return await inflated(bytes(content), self._encoding, most)
        except Unimplemented as error:
            raise UnsupportedType(error.message) from None
        except ResourceExhausted as error:
            raise TooLarge(error.message) from None

    async def chunks(self, *, endless: bool = False) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Args:
            endless: whether the time limit is for each chunk, and not for the whole.

        Raises:
            DeadlineExceeded: it takes too long. Cancelled: the caller goes away.
        """
        seconds, more = self._settings.http_body_seconds, True
        end = time.monotonic() + seconds
        while more:
            if endless:
                end = time.monotonic() + seconds
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    message = await self._receive()
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the body did not arrive within {seconds:g} s (LECTERN_HTTP_BODY_SECONDS)"
                ) from None
            if message["type"] == "http.disconnect":
                raise Cancelled("the caller went away")
            more = message.get("more_body", False)
            yield message["body"]

    async def reply(
        self, body: bytes, kind: str = replies.JSON_TYPE, headers: Headers = (), code: int = replies.OK
    ) -> None:
        """Send a whole response."""
        await replies.reply(self._send, code, body, kind, (*headers, *self._own_headers()))

    async def reply_error(self, error: StatusError | ServiceError) -> None:
        """Send an error under the HTTP code of its kind, or of its status."""
        cause = error.__cause__ if isinstance(error, StatusError) else error
        status: status_pb2.Status = error.status if isinstance(error, StatusError) else error.status()
        codes = (code for kind, code in HTTP_CODES_OF_ERRORS if isinstance(cause, kind))
        code = next(codes, replies.HTTP_CODES[status.code])
        allow = (("allow", ", ".join(cause.allowed)),) if isinstance(cause, MethodNotAllowed) else ()
        body = replies.error_body(status, inference=self.is_inference)
        await self.reply(body, headers=(*replies.hints(status), *allow), code=code)

    async def begin(self, kind: str, headers: Headers = ()) -> None:
        """Send the header of a response that is sent in parts."""
        await replies.begin(self._send, replies.OK, kind, (*headers, *self._own_headers()))

    def _own_headers(self) -> Headers:
        self.began = True
        last = (("connection", "close"),) if self.connection.ends or self._has_two_lengths else ()
        return (REQUEST_ID, self.request_id), *last

    async def send(self, message: Message) -> None:
        """Send a message of an application that answers for itself."""
        self.began = True
        await self._send(message)

    async def write(self, part: bytes) -> None:
        """Send a part of the body; waits while the caller does not read."""
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self) -> None:
        """End a response that was sent in parts."""
        await self._send({"type": "http.response.body", "body": b""})
