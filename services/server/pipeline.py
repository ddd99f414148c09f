"""The one chain that every RPC passes, whatever its transport: drain, access, errors to status, metrics, log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from services import metrics, tracing
from services.errors import Cancelled, DeadlineExceeded, Internal, InvalidArgument, ServiceError, Unavailable
from services.rpc import Call
from services.server.access import Access
from services.server.quota import Lease
from services.server.registry import Method

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
    """

    def __init__(self, access: Access | None = None) -> None:
        self.access = access
        self.draining = False
        self.active = 0
        self.finished = 0


class Endpoint:
    """One RPC as a transport calls it: request bytes in, response bytes out, `StatusError` on failure."""

    def __init__(self, method: Method, gate: Gate) -> None:
        self.method = method
        self._gate = gate
        self.path = f"{method.service}/{method.name}"
        self.labels = (method.kind, method.service, method.name)
        self.started = metrics.RPC_STARTED.labels(*self.labels)
        self.seconds = metrics.RPC_SECONDS.labels(*self.labels)
        self.ok = metrics.RPC_HANDLED.labels(*self.labels, "OK")

    async def unary(self, request: bytes, call: Call) -> bytes:
        """Answer one request with one response."""
        with self._observed(call):
            response = await self.method.function(self._parse(request), call)
            return response.SerializeToString()  # type: ignore[no-any-return]

    async def server_stream(self, request: bytes, call: Call) -> AsyncGenerator[bytes, None]:
        """Answer one request with many responses. Who takes them closes this, whatever ends the call."""
        with self._observed(call) as observed:
            async with (
                aclosing(self.method.function(self._parse(request), call)) as made,
                aclosing(observed.trace.messages(made)) as responses,
            ):
                async for response in responses:
                    yield response.SerializeToString()

    async def bidi_stream(self, requests: AsyncIterator[bytes], call: Call) -> AsyncGenerator[bytes, None]:
        """Answer many requests with many responses; to be closed as `server_stream`."""
        with self._observed(call) as observed:
            async with (
                aclosing(self._messages(requests, observed.lease)) as messages,
                aclosing(self.method.function(messages, call)) as responses,
            ):
                async for response in responses:
                    yield response.SerializeToString()

    async def _messages(self, requests: AsyncIterator[bytes], lease: Lease | None) -> AsyncGenerator[Any, None]:
        async for request in requests:
            if lease is not None:
                lease.take()
            yield self._parse(request)

    def _parse(self, request: bytes) -> Any:
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
        self._endpoint.started.inc()
        self._gate.active += 1
        try:
            if self._gate.draining:
                raise Unavailable("the server is shutting down; try another", retry_after=0.1)
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
