"""What carries RPCs to endpoints; nothing behind it knows which one does."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal, Protocol

from lectern.distribution import how_to_install
from services.server import grpc_transport
from services.server.logs import is_console
from services.server.pipeline import Endpoint
from services.server.settings import Settings, StartError
from services.server.tls import Pem
from services.server.watched import Watched

log = logging.getLogger(__name__)


class Transport(Protocol):
    """A gRPC server of endpoints."""

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Serve each under its service's and method's name; before `start`."""

    async def start(self, host: str, port: int) -> int:
        """Listen, alone or beside the other workers of one supervisor; returns the port.

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
    if settings.transport == "grpc":
        return grpc_transport.Server(settings, certificates)
    if certificates is not None:
        raise StartError('transport "native" is plaintext: take transport "grpc" for TLS, or put Envoy before it')
    try:
        from services.server import native_transport
    except ImportError as error:
        how = how_to_install("native")
        raise StartError(f'transport "native" needs more packages ({error}): {how}') from error
    log.warning('transport "native" is deprecated: it has none of the limits on connections of "grpc"')
    log_format: Literal["text", "json"] = "text" if is_console(settings) else "json"
    return native_transport.Server(settings.limits.message_bytes, settings.drain_seconds, log_format)
