"""The transport of the native front (native/): HTTP/2, gRPC and the queues of graphs in C++.

The front answers inferences in the common form itself; of all other calls it gives this module events, many at once.
docs/transport.md says how the two share the work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from google.rpc import code_pb2, status_pb2

from services import _native, metrics, tracing
from services.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    ServiceError,
    Unimplemented,
)
from services.rpc import Call, merged
from services.runtime.graph import Graph
from services.server.access import Access
from services.server.addresses import addresses, listening
from services.server.auth import EVERYTHING, INFERENCE
from services.server.compression import inflated
from services.server.pipeline import Endpoint, Gate, StatusError, until_deadline
from services.server.quota import Allowance
from services.server.settings import Settings
from services.server.tls import Pem
from services.server.watched import Watched

INFER = "/inference.GRPCInferenceService/ModelInfer"
BACKLOG = 1024
GOAWAY_SECONDS = 0.4  # until every connection has been told which of its calls are answered
ERRORS: Mapping[int, type[ServiceError]] = {
    error.code: error for error in (InvalidArgument, ResourceExhausted, DeadlineExceeded, Unimplemented)
}

Message = tuple[bool, bytes]  # whether it is compressed, and its bytes

log = logging.getLogger("lectern.rpc")


@dataclass(slots=True, eq=False)
class _Open:
    """A call under way in Python.

    Args:
        request: the next message of its stream of requests that has been asked for; None = there is no further one.
        sent: the last message of its stream of responses has gone out.
        unread: nothing of its responses was read for too long.
    """

    task: asyncio.Task[None] | None = None
    request: asyncio.Future[Message | None] | None = None
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    unread: bool = False


class NativeLease:
    """One admitted RPC of a client; see `services.server.quota.Lease`."""

    __slots__ = ("_lease",)

    def __init__(self, lease: _native.Lease) -> None:
        self._lease: _native.Lease | None = lease

    def take(self) -> None:
        if self._lease is not None and (refusal := self._lease.take()):
            raise _refused(*refusal)

    def release(self) -> None:
        self._lease = None


class NativeQuota:
    """The usage that the front counts as well; see `services.server.quota.Quota`."""

    def __init__(self, quota: _native.Quota) -> None:
        self._quota = quota

    def admit(self, client: str, allowance: Allowance) -> NativeLease | None:
        lease = self._quota.admit(client, *_limits(allowance))
        if isinstance(lease, tuple):
            raise _refused(*lease)
        return NativeLease(lease) if lease else None

    def __len__(self) -> int:
        return self._quota.clients


class Server:
    """Serves through the native front; see `services.server.transport.Transport`.

    Args:
        certificates: None = plaintext.
        gate: counts the calls that the front answers too.
    """

    def __init__(self, settings: Settings, certificates: Watched[Pem] | None, gate: Gate) -> None:
        self._settings, self._certificates, self._gate = settings, certificates, gate
        self._access: Access | None = gate.access
        self._limit = settings.limits.message_bytes
        self._endpoints: list[Endpoint] = []
        self._open: dict[int, _Open] = {}
        self._pushed: tuple[object, object] = (None, None)
        self._front = _native.Front(
            message_bytes=self._limit,
            calls=settings.limits.calls,
            axis_length=settings.limits.axis_length,
            max_concurrent_streams=settings.max_concurrent_streams,
            max_connection_age=settings.max_connection_age_seconds,
            max_connection_age_grace=settings.max_connection_age_grace_seconds,
            reader_timeout=settings.reader_timeout_seconds,
            infer_path=INFER,
            seconds_bounds=metrics.SECONDS,
            clients=settings.client_limits.clients,
        )
        gate.elsewhere = lambda: int(self._front.inferring)
        if self._access is not None:
            self._access.quota = NativeQuota(self._front.quota)
        # Whatever is recorded of each call, Python records.
        self._front.set_infers_here(not tracing.records_calls() and settings.log_level != "debug")
        self.refresh()

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            method = endpoint.method
            self._endpoints.append(endpoint)
            path = f"/{method.service}/{method.name}"
            self._front.add_method(path, method.client_streaming, method.server_streaming)

    def refresh(self) -> None:
        """Give the front tokens and certificates that have changed."""
        tokens = self._access.clients if self._access else None
        pem = self._certificates.value if self._certificates else None
        if self._pushed == (tokens, pem) and self._pushed != (None, None):
            return
        if pem is not None:
            self._front.set_tls(pem.certificate, pem.key, pem.client_ca or b"")
        grants = [
            (c.digest, c.name, c.expires, bool(c.scopes & {INFERENCE, EVERYTHING}), _limits(c.allowance))
            for c in tokens or ()
        ]
        default = self._access.default if self._access is not None else Allowance()
        self._front.set_access(tokens is not None, _limits(default), grants)
        self._pushed = (tokens, pem)

    def route(self, graphs: Mapping[str, Mapping[int, Graph]]) -> None:
        """Send inferences to these graphs, as far as they have a native queue."""
        routes = ((name, number, graph) for name, versions in graphs.items() for number, graph in versions.items())
        native = ((name, number, getattr(graph, "route", None)) for name, number, graph in routes)
        self._front.set_routes([(name, number, *route) for name, number, route in native if route is not None])

    def active(self) -> int:
        return int(self._front.active)

    def set_budget(self, total: int) -> None:
        self._front.set_budget(total)

    async def start(self, host: str, port: int) -> int:
        for family, address in addresses(host, port):
            listener = listening(family, (address[0], port), BACKLOG, shared=self._settings.workers > 1)
            port = listener.getsockname()[1]
            self._front.listen(listener.detach())
        asyncio.get_running_loop().add_reader(self._front.event_fd, self._take_events)
        metrics.sources.append(self._count)
        self._front.start()
        return port

    def send_elsewhere(self) -> None:
        self._front.send_elsewhere()

    async def stop(self) -> None:
        self._front.shut_down()
        await asyncio.sleep(GOAWAY_SECONDS)
        await asyncio.to_thread(self._front.drain, self._settings.drain_seconds)
        asyncio.get_running_loop().remove_reader(self._front.event_fd)
        await asyncio.to_thread(self._front.stop)
        for call in list(self._open.values()):
            if call.task is not None:
                call.task.cancel()
        metrics.sources.remove(self._count)
        self._count()

    def _count(self) -> None:
        """Add the calls that the front answered to the metrics."""
        started, handled, seconds, total = self._front.take_counters()
        endpoint = next(e for e in self._endpoints if f"/{e.path}" == INFER)
        endpoint.counts.started_metric.inc(started)
        for code, count in enumerate(handled):
            if count:
                metrics.RPC_HANDLED.labels(*endpoint.labels, code_pb2.Code.Name(code)).inc(count)
        metrics.add_to_histogram(endpoint.counts.seconds_metric, seconds, total)
        self._gate.finished += started

    def _take_events(self) -> None:
        for kind, *fields in self._front.events():
            match kind:
                case _native.Kind.START:
                    self._begin(*fields)
                case _native.Kind.FAILED:
                    self._log_failure(*fields)
                case _native.Kind.UNLOGGED:
                    log.info("%d more inferences failed, too many at once to log each", *fields)
                case _:
                    number, *rest = fields
                    if number in self._open:
                        self._tell(self._open[number], kind, rest)

    def _begin(
        self,
        number: int,
        method: int,
        deadline: float,
        request_id: str,
        peer: str,
        client: str,
        metadata: list[tuple[str, str]],
        encoding: str,
        message: Message,
    ) -> None:
        endpoint = self._endpoints[method]
        call = Call(endpoint.method.service, endpoint.method.name, deadline, request_id, peer, merged(metadata), client)
        opened = self._open[number] = _Open()
        task = opened.task = asyncio.get_running_loop().create_task(
            self._answer(number, opened, endpoint, call, encoding, message)
        )
        # Not in the task: one that is cancelled before it begins runs nothing.
        task.add_done_callback(lambda _: self._open.pop(number, None))

    def _tell(self, call: _Open, kind: object, fields: list[Any]) -> None:
        match kind:
            case _native.Kind.CANCELLED:
                if call.task is not None:
                    call.task.cancel()
            case _native.Kind.SENT:
                call.sent.set()
            case _native.Kind.UNREAD:
                call.unread = True
                call.sent.set()
            case _ if call.request is None or call.request.done():
                pass
            case _native.Kind.BROKEN:
                code, problem = fields
                call.request.set_exception(ERRORS.get(code, Internal)(problem))
            case _native.Kind.MESSAGE:
                call.request.set_result(fields[0])
            case _native.Kind.ENDED:
                call.request.set_result(None)

    async def _answer(
        self,
        number: int,
        opened: _Open,
        endpoint: Endpoint,
        call: Call,
        encoding: str,
        message: Message,
    ) -> None:
        front, method = self._front, endpoint.method
        try:
            async with until_deadline(call):
                if not method.server_streaming:
                    response = await endpoint.unary(await self._plain(message, encoding), call)
                    front.answer(number, self._checked(response))
                    return
                if method.client_streaming:
                    responses = endpoint.bidi_stream(self._requests(number, opened, encoding), call)
                else:
                    responses = endpoint.server_stream(await self._plain(message, encoding), call)
                async with aclosing(responses):
                    async for response in responses:
                        if not await self._write(number, opened, response):
                            with suppress(StatusError):
                                await responses.athrow(self._unread())
                            front.reset(number)
                            return
            front.finish(number, code_pb2.OK, "", b"")
        except TimeoutError:
            self._fail(number, DeadlineExceeded("the deadline passed").status())
        except StatusError as error:
            self._fail(number, error.status)
        except ServiceError as error:
            self._fail(number, error.status())

    async def _write(self, number: int, opened: _Open, response: bytes) -> bool:
        """Send a message of a stream, and wait while the caller does not read; returns whether it does again."""
        opened.sent.clear()
        self._front.write(number, self._checked(response))
        if not opened.unread:
            await opened.sent.wait()
        return not opened.unread

    def _unread(self) -> ServiceError:
        seconds = self._settings.reader_timeout_seconds
        return ResourceExhausted(f"the stream ends: its reader took nothing for {seconds:g} s")

    async def _requests(self, number: int, opened: _Open, encoding: str) -> AsyncIterator[bytes]:
        while True:
            opened.request = asyncio.get_running_loop().create_future()
            self._front.read(number)
            message = await opened.request
            if message is None:
                return
            yield await self._plain(message, encoding)

    async def _plain(self, message: Message, encoding: str) -> bytes:
        """The message without compression; raises as `inflated`."""
        compressed, content = message
        return await inflated(content, encoding, self._limit) if compressed else content

    def _checked(self, response: bytes) -> bytes:
        if len(response) > self._limit:
            raise ResourceExhausted(f"the response has {len(response)} bytes; the most is {self._limit}")
        return response

    def _fail(self, number: int, status: status_pb2.Status) -> None:
        self._front.finish(number, status.code, status.message, status.SerializeToString())

    def _log_failure(
        self,
        code: int,
        problem: str,
        seconds: float,
        request_id: str,
        peer: str,
        client: str,
        model: str,
        queue_seconds: float,
        inference_seconds: float,
        batch_size: int,
    ) -> None:
        name, path = code_pb2.Code.Name(code), INFER[1:]
        fields = {"rpc": path, "code": name, "seconds": round(seconds, 6), "request_id": request_id}
        fields |= {"model": model, "peer": peer, "client": client}
        if batch_size:
            fields |= {"queue_seconds": round(queue_seconds, 6), "inference_seconds": round(inference_seconds, 6)}
            fields["batch_size"] = batch_size
        level = logging.ERROR if code == code_pb2.INTERNAL else logging.INFO
        log.log(level, "%s %s: %s", path, name, problem, extra=fields)


def _limits(allowance: Allowance) -> tuple[float, float, int]:
    return allowance.rate, allowance.size, allowance.concurrency


def _refused(code: int, message: str, retry_after: float) -> ServiceError:
    return ServiceError.of_code(code, message, retry_after=retry_after)
