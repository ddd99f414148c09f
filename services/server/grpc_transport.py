"""The transport of grpc.aio: carries request bytes to endpoints and their answers back, with or without TLS."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from services import tracing
from services.errors import ResourceExhausted
from services.rpc import REQUEST_ID, Call, accepted_request_id, merged
from services.runtime.graph import Graph
from services.server import connections
from services.server.addresses import addresses, authority
from services.server.pipeline import Endpoint, Gate, StatusError
from services.server.settings import Settings
from services.server.tls import Pem
from services.server.watched import Watched

# Calls that no handler has begun. gRPC cancels more than these; `Limits.calls` refuses them earlier, with a reason.
PENDING_CALLS = 1_000_000
ROUND_TRIP_SECONDS = 0.3  # between continents
ROUND_SECONDS, QUIET_ROUNDS, LONGEST_WAIT_SECONDS = 0.0005, 4, 0.5

MakeCall = Callable[[grpc.aio.ServicerContext[bytes, bytes]], Call]

log = logging.getLogger(__name__)


class Server:
    """Serves through grpc.aio; see `services.server.transport.Transport`.

    Args:
        certificates: None = plaintext.
    """

    def __init__(self, settings: Settings, certificates: Watched[Pem] | None, gate: Gate) -> None:
        self._settings, self._certificates, self._gate = settings, certificates, gate
        self._mutual_tls = certificates is not None and certificates.value.client_ca is not None
        # What is recorded of a call that succeeds has its id.
        self._names_all = settings.log_level == "debug" or tracing.records_calls()
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        self._arrivals = _Arrivals()

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            make_call = partial(_call, endpoint, mutual_tls=self._mutual_tls, names_all=self._names_all)
            handler = _handler(endpoint, make_call, self._settings.reader_timeout_seconds, self._arrivals)
            self._handlers[f"/{endpoint.path}"] = handler

    def route(self, graphs: Mapping[str, Mapping[int, Graph]]) -> None:
        """Endpoints find the graphs themselves."""

    def refresh(self) -> None:
        """Tokens and certificates are looked up at each call and handshake."""

    def active(self) -> int:
        return self._gate.active

    def set_budget(self, total: int) -> None:
        """gRPC reads messages before anybody can hold them back."""

    async def start(self, host: str, port: int) -> int:
        # Created here because it belongs to the running event loop.
        self._server = grpc.aio.server(handlers=[_Handlers(self._handlers)], options=_options(self._settings))
        try:
            for _, (address, _) in addresses(host, port):
                port = self._bind(authority(address, port))
        except RuntimeError as error:
            raise OSError(str(error)) from error
        await self._server.start()
        self._port = port
        return port

    def send_elsewhere(self) -> None:
        self._send_goaway()

    async def stop(self) -> None:
        if self._send_goaway(stop_listening=True):
            await asyncio.sleep(ROUND_TRIP_SECONDS)
        # gRPC cancels calls that it has not handed over yet.
        await self._arrivals.pause()
        await self._server.stop(self._settings.drain_seconds)

    def _send_goaway(self, *, stop_listening: bool = False) -> int:
        """How many callers were told; over TLS only gRPC itself can tell them."""
        try:
            if stop_listening:
                connections.stop_listening(self._port)
            return 0 if self._certificates else connections.send_goaway(self._port)
        except OSError as error:  # no file descriptor is free
            log.warning("calls that are on their way may be cancelled: %s", error)
            return 0

    def _bind(self, address: str) -> int:
        certificates = self._certificates
        if certificates is None:
            return self._server.add_insecure_port(address)
        current = certificates.value

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """Called at each handshake; None = unchanged. Existing connections keep their certificate."""
            nonlocal current
            if certificates.value is current:
                return None
            current = certificates.value
            return _configuration(current)

        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(current),
            renewed,  # type: ignore[arg-type]  # the stubs leave None out
            require_client_authentication=current.client_ca is not None,
        )
        return self._server.add_secure_port(address, credentials)


class _Handlers(grpc.GenericRpcHandler):
    """All handlers by path: gRPC asks its generic handlers one after the other."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handlers.get(details.method)


class _Arrivals:
    """Counts the calls that gRPC hands over, one after the other."""

    def __init__(self) -> None:
        self.count = 0

    async def pause(self) -> None:
        """Wait until gRPC has handed over every call, but not for long.

        That is assumed after some short rounds of the event loop without a new call; a long round may hide calls.
        """
        end, quiet = time.monotonic() + LONGEST_WAIT_SECONDS, 0
        while quiet < QUIET_ROUNDS and (started := time.monotonic()) < end:
            count = self.count
            await asyncio.sleep(ROUND_SECONDS)
            is_quiet = self.count == count and time.monotonic() - started < 3 * ROUND_SECONDS
            quiet = quiet + 1 if is_quiet else 0


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Channel arguments: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
    options = [
        ("grpc.max_receive_message_length", settings.limits.message_bytes),
        ("grpc.max_send_message_length", settings.limits.message_bytes),
        # Only workers share the port, which their supervisor holds.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # It would refuse calls of a client that uses all of its streams: 5,667 of 10,000 sent at once.
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        # Clients may keep idle connections alive.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.max_connection_age_seconds:
        # gRPC varies this by up to a tenth, so that clients do not all reconnect at once.
        options += [
            ("grpc.max_connection_age_ms", round(1000 * settings.max_connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", round(1000 * settings.max_connection_age_grace_seconds)),
        ]
    return options


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)


def _handler(endpoint: Endpoint, make_call: MakeCall, reader_timeout: float, arrivals: _Arrivals) -> Any:
    # No (de)serializers: bytes pass through, so that an unparsable message gets our error and not INTERNAL.
    async def unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        arrivals.count += 1
        call = make_call(context)
        try:
            return await endpoint.unary(request, call)
        except StatusError as error:
            await _abort(context, call, error)

    # Streams are written, not yielded: grpc leaves the generator of an ended call to the garbage collector.
    async def server_stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        arrivals.count += 1
        call = make_call(context)
        await _write(endpoint.server_stream(request, call), context, call, reader_timeout)

    async def bidi_stream(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        arrivals.count += 1
        call = make_call(context)
        await _write(endpoint.bidi_stream(requests, call), context, call, reader_timeout)

    if endpoint.method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(bidi_stream)
    if endpoint.method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(server_stream)
    return grpc.unary_unary_rpc_method_handler(unary)


async def _write(
    responses: AsyncGenerator[bytes, None],
    context: grpc.aio.ServicerContext[bytes, bytes],
    call: Call,
    reader_timeout: float,
) -> None:
    try:
        async with aclosing(responses):
            async for response in responses:
                try:
                    async with asyncio.timeout(reader_timeout):
                        await context.write(response)
                except TimeoutError:
                    with suppress(StatusError):
                        await responses.athrow(
                            ResourceExhausted(f"the stream ends: its reader took nothing for {reader_timeout:g} s")
                        )
                    # No status can follow an unsent message, and grpc.aio cannot reset a stream: the caller notices at
                    # its deadline, or when the connection closes.
                    raise asyncio.CancelledError from None
    except StatusError as error:
        await _abort(context, call, error)


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], call: Call, error: StatusError) -> NoReturn:
    status = rpc_status.to_status(error.status)
    # This replaces the trailing metadata that was set before.
    await context.abort(status.code, status.details, (*status.trailing_metadata, (REQUEST_ID, call.request_id)))


def _call(
    endpoint: Endpoint, context: grpc.aio.ServicerContext[bytes, bytes], *, mutual_tls: bool, names_all: bool
) -> Call:
    metadata = merged(context.invocation_metadata() or ())
    given = metadata.get(REQUEST_ID, "")
    request_id = accepted_request_id(given)
    if given or names_all:  # nobody can ask for an id under which nothing is recorded; a failure always has one
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
    remaining = context.time_remaining()
    return Call(
        service=endpoint.method.service,
        method=endpoint.method.name,
        deadline=float("inf") if remaining is None else time.monotonic() + remaining,
        request_id=request_id,
        peer=context.peer(),
        metadata=metadata,
        client=_certified(context) if mutual_tls else "",
    )


def _certified(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    """The subject of the client's certificate, or its first alternative name if it has no subject, as with SPIFFE."""
    properties = context.auth_context()
    for name in ("x509_subject", "x509_subject_alternative_name"):
        for value in properties.get(name, ()):
            if value:
                return value.decode(errors="replace")
    return ""
