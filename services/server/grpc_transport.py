"""grpc.aio: carries request bytes to endpoints and their answers back, over TLS or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, suppress
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from services.errors import ResourceExhausted
from services.rpc import REQUEST_ID, Call, accepted_request_id, merged
from services.server.addresses import addresses, authority
from services.server.pipeline import Endpoint, StatusError
from services.server.settings import Settings
from services.server.tls import Pem
from services.server.watched import Watched

# Calls that no handler has begun; gRPC cancels those beyond it, where `Limits.calls` refuses them with a reason.
PENDING_CALLS = 1_000_000
ROUND_SECONDS, QUIET_ROUNDS, LONGEST_WAIT_SECONDS = 0.0005, 4, 0.5


class Server:
    """Serves through grpc.aio; see `services.server.transport.Transport`.

    Args:
        certificates: None = plaintext.
    """

    def __init__(self, settings: Settings, certificates: Watched[Pem] | None) -> None:
        self._settings, self._certificates = settings, certificates
        self._mutual_tls = certificates is not None and certificates.value.client_ca is not None
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._arrivals = _Arrivals()

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        services: dict[str, dict[str, Any]] = {}
        for endpoint in endpoints:
            handler = _handler(endpoint, self._mutual_tls, self._settings.reader_timeout_seconds, self._arrivals)
            services.setdefault(endpoint.method.service, {})[endpoint.method.name] = handler
        self._handlers += [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]

    async def start(self, host: str, port: int) -> int:
        # Made here: it belongs to the running event loop.
        self._server = grpc.aio.server(handlers=self._handlers, options=_options(self._settings))
        try:
            for _, (address, _) in addresses(host, port):
                port = self._bind(authority(address, port))
        except RuntimeError as error:
            raise OSError(str(error)) from error
        await self._server.start()
        return port

    async def stop(self) -> None:
        # gRPC cancels what it has not handed over yet.
        await self._arrivals.pause()
        await self._server.stop(self._settings.drain_seconds)

    def _bind(self, address: str) -> int:
        certificates = self._certificates
        if certificates is None:
            return self._server.add_insecure_port(address)
        taken = certificates.value

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """Asked at each handshake; None = as before. Connections made before keep their certificate."""
            nonlocal taken
            if certificates.value is taken:
                return None
            taken = certificates.value
            return _configuration(taken)

        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(taken),
            renewed,  # type: ignore[arg-type]  # the stubs leave None out
            require_client_authentication=taken.client_ca is not None,
        )
        return self._server.add_secure_port(address, credentials)


class _Arrivals:
    """The calls that gRPC has handed over, which it does one after the other."""

    def __init__(self) -> None:
        self.count = 0

    async def pause(self) -> None:
        """Wait for a moment in which none is on its way from gRPC; not for long, where there is no such moment.

        That is some rounds of the event loop without a call, none of which took long: then calls came meanwhile.
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
        # The workers of one supervisor, which holds the port for them.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # It refuses some calls of a client that has as many streams as it may: 5,667 of 10,000 sent at once.
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
        # Clients that keep idle connections alive are welcome.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.max_connection_age_seconds:
        # gRPC closes each up to a tenth sooner or later, so that not all clients come back at once.
        options += [
            ("grpc.max_connection_age_ms", round(1000 * settings.max_connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", round(1000 * settings.max_connection_age_grace_seconds)),
        ]
    return options


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)


def _handler(endpoint: Endpoint, mutual_tls: bool, reader_timeout: float, arrivals: _Arrivals) -> Any:
    # No (de)serializers: bytes pass through, so that a message that cannot be parsed gets our error, not INTERNAL.
    async def unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        arrivals.count += 1
        call = _call(endpoint, context, mutual_tls)
        try:
            return await endpoint.unary(request, call)
        except StatusError as error:
            await _abort(context, call, error)

    # Streams are written, not yielded: grpc leaves the generator of a call that ended to the garbage collector.
    async def server_stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        arrivals.count += 1
        call = _call(endpoint, context, mutual_tls)
        await _write(endpoint.server_stream(request, call), context, call, reader_timeout)

    async def bidi_stream(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        arrivals.count += 1
        call = _call(endpoint, context, mutual_tls)
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
                            ResourceExhausted(f"the stream ends: nothing was read of it for {reader_timeout:g} s")
                        )
                    # No status can follow a message that was not sent, and grpc.aio cannot reset a stream: the caller
                    # learns of it from its deadline, or when the connection closes.
                    raise asyncio.CancelledError from None
    except StatusError as error:
        await _abort(context, call, error)


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], call: Call, error: StatusError) -> NoReturn:
    status = rpc_status.to_status(error.status)
    # What is given here replaces the trailing metadata set before.
    await context.abort(status.code, status.details, (*status.trailing_metadata, (REQUEST_ID, call.request_id)))


def _call(endpoint: Endpoint, context: grpc.aio.ServicerContext[bytes, bytes], mutual_tls: bool) -> Call:
    given = context.invocation_metadata() or ()
    metadata = merged((str(key), value) for key, value in given if isinstance(value, str))
    request_id = accepted_request_id(metadata.get(REQUEST_ID, ""))
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
    """The subject of the client's certificate; its first alternative name where it has none, as SPIFFE's do."""
    found = context.auth_context()
    for name in ("x509_subject", "x509_subject_alternative_name"):
        for value in found.get(name, ()):
            if value:
                return value.decode(errors="replace")
    return ""
