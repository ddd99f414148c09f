"""grpc.aio: carries request bytes to endpoints and their answers back, over TLS or not."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from services.rpc import Call
from services.server.pipeline import Endpoint, StatusError
from services.server.tls import Pem
from services.server.watched import Watched

REQUEST_ID = "x-request-id"
_ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


def create_server(message_bytes: int) -> grpc.aio.Server:
    """A server without services; both directions take messages of up to `message_bytes`."""
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
            ("grpc.so_reuseport", 1),
            # Clients that keep idle connections alive are welcome.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )


def add_endpoints(server: grpc.aio.Server, endpoints: Iterable[Endpoint], mutual_tls: bool) -> None:
    """Serve each endpoint under its service's and method's name; with mutual TLS, clients have a certificate."""
    services: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        services.setdefault(endpoint.method.service, {})[endpoint.method.name] = _handler(endpoint, mutual_tls)
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items())
    )


def bind(server: grpc.aio.Server, address: str, certificates: Watched[Pem] | None) -> int:
    """Listen on an address, over TLS if there are certificates; returns the port.

    Raises:
        RuntimeError: the address is taken.
    """
    if certificates is None:
        return server.add_insecure_port(address)
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
    return server.add_secure_port(address, credentials)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)


def _handler(endpoint: Endpoint, mutual_tls: bool) -> Any:
    # No (de)serializers: bytes pass through, so that a message that cannot be parsed gets our error, not INTERNAL.
    async def unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        call = _call(endpoint, context, mutual_tls)
        try:
            return await endpoint.unary(request, call)
        except StatusError as error:
            await _abort(context, call, error)

    async def server_stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        call = _call(endpoint, context, mutual_tls)
        try:
            async for response in endpoint.server_stream(request, call):
                yield response
        except StatusError as error:
            await _abort(context, call, error)

    async def bidi_stream(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        call = _call(endpoint, context, mutual_tls)
        try:
            async for response in endpoint.bidi_stream(requests, call):
                yield response
        except StatusError as error:
            await _abort(context, call, error)

    if endpoint.method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(bidi_stream)
    if endpoint.method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(server_stream)
    return grpc.unary_unary_rpc_method_handler(unary)


async def _abort(context: grpc.aio.ServicerContext[bytes, bytes], call: Call, error: StatusError) -> NoReturn:
    status = rpc_status.to_status(error.status)
    # What is given here replaces the trailing metadata set before.
    await context.abort(status.code, status.details, (*status.trailing_metadata, (REQUEST_ID, call.request_id)))


def _call(endpoint: Endpoint, context: grpc.aio.ServicerContext[bytes, bytes], mutual_tls: bool) -> Call:
    metadata = {str(key): value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    given = metadata.get(REQUEST_ID, "")
    request_id = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
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
