"""The chain that every RPC passes on any transport: limits, access, errors to status, metrics, traces, log."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message
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

# Larger messages are checked and parsed off the event loop.
INLINE_BYTES = 64 * 1024

NO_DEADLINE = nullcontext()

log = logging.getLogger("lectern.rpc")


class Wire(Protocol):
    """How a transport writes messages as bytes.

    Attributes:
        inline_bytes: larger messages are parsed and written off the event loop.
    """

    inline_bytes: int

    def parse(self, request: bytes, message: type[Message], fields: int) -> Message:
        """The request's message.

        Args:
            fields: the most it may have.

        Raises:
            InvalidArgument: it is none.
        """

    def serialize(self, response: Message) -> bytes:
        """The bytes of a response."""


class _Protobuf:
    """gRPC's own wire."""

    inline_bytes = INLINE_BYTES

    def parse(self, request: bytes, message: type[Message], fields: int) -> Message:
        if len(request) > INLINE_BYTES:
            try:
                check_fields(request, message.DESCRIPTOR, fields)  # type: ignore[arg-type]  # either kind
            except TooManyFieldsError as error:
                raise InvalidArgument(f"the request {error}; send less in one message") from None
        try:
            return message.FromString(request)
        except DecodeError as error:
            raise InvalidArgument(f"the request is not a valid {message.DESCRIPTOR.full_name}") from error

    def serialize(self, response: Message) -> bytes:
        return response.SerializeToString()


PROTOBUF: Wire = _Protobuf()


@dataclass(frozen=True, slots=True)
class Arriving:
    """A request that its caller still sends, which is read once the call is admitted and has the memory for it.

    What never arrives holds `budget.arriving` alone, so that requests which have arrived do not wait for it.

    Args:
        length: the most bytes that it may have.
        read: receives it.
    """

    length: int
    read: Callable[[], Awaitable[bytes]]


class StatusError(Exception):
    """An RPC ended with a status other than OK; the transport sends it."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class Gate:
    """Admits RPCs and counts those under way.

    Args:
        access: None = everyone may call.
        calls: the most RPCs under way at once.

    Attributes:
        elsewhere: how many more are under way, which the transport answers itself.
    """

    def __init__(self, access: Access | None = None, calls: int = sys.maxsize) -> None:
        self.access, self.calls = access, calls
        self.active = 0
        self.finished = 0
        self.elsewhere: Callable[[], int] = lambda: 0  # RPCs under way that pass no endpoint


class Endpoint:
    """One RPC as a transport calls it: request bytes in, response bytes out, `StatusError` on failure.

    Args:
        loop: the loop on which its function runs; None = the transport's event loop.
        limits: None = its messages are always small.
    """

    def __init__(
        self, method: Method, gate: Gate, loop: NumericLoop | None = None, limits: Limits | None = None
    ) -> None:
        self.method = method
        self._gate, self._loop, self._limits = gate, loop, limits
        self._fields = limits.message_fields if limits else sys.maxsize
        self.path = f"{method.service}/{method.name}"
        self.labels = (method.kind, method.service, method.name)
        self.counts = metrics.CallCounts(*self.labels)
        self._observation = _RecordedObservation if tracing.records_calls() else _Observation

    async def unary(self, request: bytes | Arriving, call: Call, wire: Wire = PROTOBUF) -> bytes:
        """Answer one request with one response."""
        with self._observed(call):
            if isinstance(request, bytes) and len(request) <= wire.inline_bytes:
                response = await self._answer(self._parse_now(request, wire), call)
            else:
                response = await self._answer_large(request, call, wire)
            return await self._serialize(response, wire)

    def _answer(self, request: Any, call: Call) -> Awaitable[Any]:
        answer = self.method.function(request, call)
        return self._loop.run(answer) if self._loop else answer

    async def _answer_large(self, request: bytes | Arriving, call: Call, wire: Wire) -> Any:
        content, held = await self._receive(request)
        try:
            return await self._answer(await self._parse(content, wire), call)
        finally:
            budget.messages.give_back(held)

    async def server_stream(
        self, request: bytes | Arriving, call: Call, wire: Wire = PROTOBUF
    ) -> AsyncGenerator[bytes, None]:
        """Answer one request with many responses. The consumer must close the generator, however the call ends."""
        with self._observed(call) as observed:
            content, held = await self._receive(request)
            try:
                answers = self.method.function(await self._parse(content, wire), call)
                async with (
                    aclosing(self._loop.iterate(answers) if self._loop else answers) as made,
                    aclosing(observed.trace.messages(made)) as responses,
                ):
                    async for response in responses:
                        yield await self._serialize(response, wire)
            finally:
                budget.messages.give_back(held)

    async def bidi_stream(
        self, requests: AsyncIterator[bytes], call: Call, wire: Wire = PROTOBUF
    ) -> AsyncGenerator[bytes, None]:
        """Answer many requests with many responses; must be closed like `server_stream`."""
        with self._observed(call) as observed:
            held: deque[int] = deque()
            try:
                async with (
                    aclosing(self._messages(requests, observed.lease, held, wire)) as messages,
                    aclosing(self.method.function(messages, call)) as responses,
                ):
                    async for response in responses:
                        yield await self._serialize(response, wire)
            finally:
                budget.messages.give_back(sum(held))

    async def _messages(
        self, requests: AsyncIterator[bytes], lease: Lease | None, held: deque[int], wire: Wire
    ) -> AsyncGenerator[Any, None]:
        window = self._limits.stream_window if self._limits else 1
        async for request in requests:
            if lease is not None:
                lease.take()
            if len(held) > window:  # a stream never works on more at once
                budget.messages.give_back(held.popleft())
            held.append(await self._hold(request))
            yield await self._parse(request, wire)

    async def _receive(self, request: bytes | Arriving) -> tuple[bytes, int]:
        """The bytes of a request, and how much memory is held for it."""
        if isinstance(request, bytes):
            return request, await self._hold(request)
        if request.length <= INLINE_BYTES:
            return await request.read(), 0
        async with budget.arriving.hold(request.length, "request"):
            content = await request.read()
            return content, await self._hold(content)

    async def _hold(self, request: bytes) -> int:
        """Wait for the memory of a large message; returns the amount."""
        if len(request) <= INLINE_BYTES:  # bounded by the number of RPCs, and must never wait behind a large message
            return 0
        amount = budget.MESSAGE_COPIES * len(request)
        if not budget.messages.try_take(amount):
            await budget.messages.take(amount, "request")
        return amount

    async def _parse(self, content: bytes, wire: Wire) -> Any:
        if len(content) > wire.inline_bytes and self._limits is not None:
            return await pools.codecs.run(self._parse_now, content, wire)
        return self._parse_now(content, wire)

    def _parse_now(self, request: bytes, wire: Wire) -> Any:
        return wire.parse(request, self.method.request_class, self._fields)

    async def _serialize(self, response: Message, wire: Wire) -> bytes:
        if wire is PROTOBUF or response.ByteSize() <= wire.inline_bytes:
            return wire.serialize(response)
        return await pools.codecs.run(wire.serialize, response)

    def _observed(self, call: Call) -> _Observation:
        return self._observation(self, call, self._gate)


class _Observation:
    """Counts, times, traces and logs one RPC, and turns any exception into a status."""

    __slots__ = ("_call", "_endpoint", "_gate", "_started", "lease", "trace")

    def __init__(self, endpoint: Endpoint, call: Call, gate: Gate) -> None:
        self._endpoint, self._call, self._gate = endpoint, call, gate
        self.lease: Lease | None = None

    def __enter__(self) -> _Observation:
        self._started = time.monotonic()
        self.trace = tracing.begin(self._call)
        budget.deadline.set(self._call.deadline)
        self._endpoint.counts.started += 1
        self._gate.active += 1
        try:
            if self._gate.active + self._gate.elsewhere() > self._gate.calls:
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
        # Only faults of the server are logged with a traceback.
        cause = None if isinstance(error, ServiceError) or failure.code != code_pb2.INTERNAL else error
        self._end(failure.code, failure.message, cause)
        _drop_tracebacks(error)
        # A cancelled task must end as cancelled: no caller reads a status.
        if isinstance(error, Exception):
            raise StatusError(failure.status()) from error

    def _end(self, code: int, message: str, cause: BaseException | None) -> None:
        endpoint, call = self._endpoint, self._call
        seconds = time.monotonic() - self._started
        endpoint.counts.ended(seconds)
        name = "OK"
        if code == code_pb2.OK:
            endpoint.counts.ok += 1
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


class _RecordedObservation(_Observation):
    """That of an RPC whose trace may be exported, which is then an exemplar of its time."""

    __slots__ = ()

    def _end(self, code: int, message: str, cause: BaseException | None) -> None:
        seconds = time.monotonic() - self._started
        super()._end(code, message, cause)
        if self.trace.trace_id:
            self._endpoint.counts.exemplify(seconds, self.trace.trace_id)


def _drop_tracebacks(error: BaseException) -> None:
    """Let go of the frames that an error and its causes passed through.

    An exception may sit in a reference cycle, and its frames would keep megabytes alive with it.
    """
    link: BaseException | None = error
    while link is not None and link.__traceback__ is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def _to_service_error(error: BaseException, call: Call) -> ServiceError:
    match error:
        case ServiceError():
            return error
        case asyncio.CancelledError() | GeneratorExit():
            late = time.monotonic() >= call.deadline
            return DeadlineExceeded("the deadline passed") if late else Cancelled("the caller went away")
    return Internal(f"internal error; the server's log has the cause under request id {call.request_id}")


def until_deadline(call: Call) -> AbstractAsyncContextManager[object]:
    """Cancels the block at the call's deadline, with `TimeoutError`."""
    if call.deadline == float("inf"):
        return NO_DEADLINE
    # The loop's timers fire up to a millisecond early.
    return asyncio.timeout(max(0.0, call.deadline - time.monotonic()) + 1e-3)
