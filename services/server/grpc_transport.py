"""grpc.aio: carries request bytes to endpoints and their answers back, over TLS or not."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status

from services.rpc import REQUEST_ID, Call, accepted_request_id
from services.server.pipeline import Endpoint, StatusError


class Server:
    """Serves through grpc.aio; see `services.server.transport.Transport`."""

    def __init__(self, message_bytes: int, drain_seconds: float) -> None:
        self._message_bytes, self._drain_seconds = message_bytes, drain_seconds
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        services: dict[str, dict[str, Any]] = {}
        for endpoint in endpoints:
            services.setdefault(endpoint.method.service, {})[endpoint.method.name] = _handler(endpoint)
        self._handlers += [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]

    async def start(self, host: str, port: int) -> int:
        # Made here: it belongs to the running event loop.
        self._server = grpc.aio.server(
            handlers=self._handlers,
            options=[
                ("grpc.max_receive_message_length", self._message_bytes),
                ("grpc.max_send_message_length", self._message_bytes),
                ("grpc.so_reuseport", 1),
                # Clients that keep idle connections alive are welcome.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        try:
            port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(str(error)) from error
        await self._server.start()
        return port

    async def stop(self) -> None:
        await self._server.stop(self._drain_seconds)


def _handler(endpoint: Endpoint) -> Any:
    # No (de)serializers: bytes pass through, so that a message that cannot be parsed gets our error, not INTERNAL.
    async def unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        call = _call(endpoint, context)
        try:
            return await endpoint.unary(request, call)
        except StatusError as error:
            await _abort(context, call, error)

    async def server_stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        call = _call(endpoint, context)
        try:
            async for response in endpoint.server_stream(request, call):
                yield response
        except StatusError as error:
            await _abort(context, call, error)

    async def bidi_stream(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        call = _call(endpoint, context)
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


def _call(endpoint: Endpoint, context: grpc.aio.ServicerContext[bytes, bytes]) -> Call:
    metadata = {str(key): value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
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
    )
