"""The one chain that every RPC passes, whatever its transport: limits, access, errors to status, metrics, log."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from services import budget, metrics, pools, tracing
from services.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    ServiceError,
)
from services.limits import Limits
from services.numeric import NumericLoop
from services.rpc import Call
from services.server.access import Access
from services.server.quota import Lease
from services.server.registry import Method
from services.wire import TooManyFieldsError, check_fields

# Larger messages are counted and parsed apart from the event loop.
INLINE_BYTES = 64 * 1024
MESSAGE_COPIES = 3

log = logging.getLogger("lectern.rpc")


class StatusError(Exception):
    """An RPC ended with a status other than OK; the transport sends it."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class Gate:
    """Whether and whose new work is accepted, and how much is under way.

    Args:
        access: None = everyone's.
        calls: how many may be under way.
    """

    def __init__(self, access: Access | None = None, calls: int = sys.maxsize) -> None:
        self.access, self.calls = access, calls
        self.active = 0
        self.finished = 0


class Endpoint:
    """One RPC as a transport calls it: request bytes in, response bytes out, `StatusError` on failure.

    Args:
        loop: where its function runs; None = on the transport's event loop.
        limits: None = the messages are small by their nature.
    """

    def __init__(
        self, method: Method, gate: Gate, loop: NumericLoop | None = None, limits: Limits | None = None
    ) -> None:
        self.method = method
        self._gate, self._loop, self._limits = gate, loop, limits
        self.path = f"{method.service}/{method.name}"
        self.labels = (method.kind, method.service, method.name)
        self.started = metrics.RPC_STARTED.labels(*self.labels)
        self.seconds = metrics.RPC_SECONDS.labels(*self.labels)
        self.ok = metrics.RPC_HANDLED.labels(*self.labels, "OK")

    async def unary(self, request: bytes, call: Call) -> bytes:
        """Answer one request with one response."""
        with self._observed(call):
            held = await self._hold(request)
            try:
                answer = self.method.function(await self._parse(request), call)
                response = await (self._loop.run(answer) if self._loop else answer)
                return response.SerializeToString()  # type: ignore[no-any-return]
            finally:
                budget.messages.give_back(held)

    async def server_stream(self, request: bytes, call: Call) -> AsyncGenerator[bytes, None]:
        """Answer one request with many responses. Who takes them closes this, whatever ends the call."""
        with self._observed(call) as observed:
            held = await self._hold(request)
            try:
                answers = self.method.function(await self._parse(request), call)
                async with (
                    aclosing(self._loop.iterate(answers) if self._loop else answers) as made,
                    aclosing(observed.trace.messages(made)) as responses,
                ):
                    async for response in responses:
                        yield response.SerializeToString()
            finally:
                budget.messages.give_back(held)

    async def bidi_stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncGenerator[bytes, None]:
        """Answer many requests with many responses; to be closed as `server_stream`."""
        with self._observed(call) as observed:
            held: deque[int] = deque()
            try:
                async with (
                    aclosing(self._messages(requests, observed.lease, held)) as messages,
                    aclosing(self.method.function(messages, call)) as responses,
                ):
                    async for response in responses:
                        yield response.SerializeToString()
            finally:
                budget.messages.give_back(sum(held))

    async def _messages(
        self, requests: AsyncIterator[bytes], lease: Lease | None, held: deque[int]
    ) -> AsyncGenerator[Any, None]:
        window = self._limits.stream_window if self._limits else 1
        async for request in requests:
            if lease is not None:
                lease.take()
            if len(held) > window:  # no stream works on more at once
                budget.messages.give_back(held.popleft())
            held.append(await self._hold(request))
            yield await self._parse(request)

    async def _hold(self, request: bytes) -> int:
        """Wait for the memory that a large message takes, which is returned: as bytes, parsed, and as arrays."""
        if len(request) <= INLINE_BYTES:  # bounded by the number of RPCs, and never behind a large one
            return 0
        amount = MESSAGE_COPIES * len(request)
        if not budget.messages.try_take(amount):
            await budget.messages.take(amount, "request")
        return amount

    async def _parse(self, request: bytes) -> Any:
        if len(request) > INLINE_BYTES and self._limits is not None:
            return await pools.codecs.run(self._parse_large, request, self._limits.message_fields)
        return self._parse_now(request)

    def _parse_large(self, request: bytes, most: int) -> Any:
        try:
            check_fields(request, self.method.request_class.DESCRIPTOR, most)  # type: ignore[arg-type]  # either kind
        except TooManyFieldsError as error:
            raise InvalidArgument(f"the request {error}; send less in one message") from None
        return self._parse_now(request)

    def _parse_now(self, request: bytes) -> Any:
        try:
            return self.method.request_class.FromString(request)
        except DecodeError as error:
            raise InvalidArgument(
                f"the request is not a valid {self.method.request_class.DESCRIPTOR.full_name}"
            ) from error

    def _observed(self, call: Call) -> _Observation:
        return _Observation(self, call, self._gate)


class _Observation:
    """Counts, times, traces and logs one RPC, and turns whatever ends it into a status."""

    __slots__ = ("_call", "_endpoint", "_gate", "_started", "lease", "trace")

    def __init__(self, endpoint: Endpoint, call: Call, gate: Gate) -> None:
        self._endpoint, self._call, self._gate = endpoint, call, gate
        self.lease: Lease | None = None

    def __enter__(self) -> _Observation:
        self._started = time.monotonic()
        self.trace = tracing.begin(self._call)
        budget.deadline.set(self._call.deadline)
        self._endpoint.started.inc()
        self._gate.active += 1
        try:
            if self._gate.active > self._gate.calls:
                raise ResourceExhausted(
                    f"{self._gate.calls} calls are under way, the most at once; try again later", retry_after=0.1
                )
            if self._gate.access is not None:
                self.lease = self._gate.access.admit(self._call, self._endpoint.method.scope)
        except Exception as error:
            self.__exit__(None, error, None)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._gate.active -= 1
        self._gate.finished += 1
        if self.lease is not None:
            self.lease.release()
        if error is None:
            self._end(code_pb2.OK, "", None)
            return
        failure = _to_service_error(error, self._call)
        # Our own faults are logged with their traceback; others are said to the caller.
        cause = None if isinstance(error, ServiceError) or failure.code != code_pb2.INTERNAL else error
        self._end(failure.code, failure.message, cause)
        # A cancelled task must end as cancelled: nobody is there to read a status.
        if isinstance(error, Exception):
            raise StatusError(failure.status()) from error

    def _end(self, code: int, message: str, cause: BaseException | None) -> None:
        endpoint, call = self._endpoint, self._call
        seconds = time.monotonic() - self._started
        endpoint.seconds.observe(seconds)
        name = "OK"
        if code == code_pb2.OK:
            endpoint.ok.inc()
        else:
            name = code_pb2.Code.Name(code)
            metrics.RPC_HANDLED.labels(*endpoint.labels, name).inc()
        level = logging.DEBUG if code == code_pb2.OK else logging.ERROR if code == code_pb2.INTERNAL else logging.INFO
        if log.isEnabledFor(level):
            fields = {"rpc": endpoint.path, "code": name, "seconds": round(seconds, 6), "request_id": call.request_id}
            fields |= {"model": call.model, "peer": call.peer, "client": call.client, **self.trace.fields()}
            text = f": {message}" if message else ""
            log.log(level, "%s %s%s", endpoint.path, name, text, extra=fields, exc_info=cause)
        self.trace.end(call, code, message)


def _to_service_error(error: BaseException, call: Call) -> ServiceError:
    match error:
        case ServiceError():
            return error
        case asyncio.CancelledError() | GeneratorExit():
            late = time.monotonic() >= call.deadline
            return DeadlineExceeded("the deadline passed") if late else Cancelled("the caller went away")
    return Internal(f"internal error; the server's log has the cause under request id {call.request_id}")
