"""What carries RPCs to endpoints; nothing behind it knows which one does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lectern.distribution import how_to_install
from services.server import grpc_transport
from services.server.logs import is_console
from services.server.pipeline import Endpoint
from services.server.settings import Settings, StartError
from services.server.tls import Pem
from services.server.watched import Watched


class Transport(Protocol):
    """A gRPC server of endpoints."""

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Serve each under its service's and method's name; before `start`."""

    async def start(self, host: str, port: int) -> int:
        """Listen, beside other processes that share the port; returns the port.

        Raises:
            OSError: the address is taken.
        """

    async def stop(self) -> None:
        """Stop listening, send callers elsewhere, and finish what was accepted, within the drain time."""


def create(settings: Settings, certificates: Watched[Pem] | None) -> Transport:
    """The transport that the settings ask for.

    Raises:
        StartError: its package is not installed, or it has no TLS.
    """
    message_bytes, drain_seconds = settings.limits.message_bytes, settings.drain_seconds
    if settings.transport == "grpc":
        return grpc_transport.Server(message_bytes, drain_seconds, certificates)
    if certificates is not None:
        raise StartError('transport "native" is plaintext: take transport "grpc" for TLS, or put Envoy before it')
    try:
        from services.server import native_transport
    except ImportError as error:
        how = how_to_install("native")
        raise StartError(f'transport "native" needs more packages ({error}): {how}') from error
    return native_transport.Server(message_bytes, drain_seconds, "text" if is_console(settings) else "json")
