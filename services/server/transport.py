"""The interface of transports, which carry RPCs to endpoints, and the choice of one by the settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from services.runtime.graph import Graph
from services.server import grpc_transport
from services.server.pipeline import Endpoint, Gate
from services.server.settings import Settings, StartError
from services.server.tls import Pem
from services.server.watched import Watched

try:
    from services.server import native_transport
except ImportError as error:
    native_transport = None  # type: ignore[assignment]
    NOT_BUILT = str(error)


class Listener(Protocol):
    """A server on a port of its own."""

    async def start(self, host: str, port: int) -> int:
        """Listen, alone or beside the other workers of one supervisor; returns the port.

        Raises:
            OSError: the address is taken.
        """

    def send_elsewhere(self) -> None:
        """Ask callers to make their next calls over a new connection, which may lead elsewhere; go on answering."""

    async def stop(self) -> None:
        """Stop listening, send callers elsewhere, and finish accepted calls within the drain time."""


class Transport(Listener, Protocol):
    """A gRPC server of endpoints."""

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Serve each endpoint under its service's and method's name; call before `start`."""

    def route(self, graphs: Mapping[str, Mapping[int, Graph]]) -> None:
        """Take note of the graphs that answer from now on, by name and version."""

    def refresh(self) -> None:
        """Take note of tokens and certificates that have changed."""

    def active(self) -> int:
        """How many calls are under way."""

    def set_budget(self, total: int) -> None:
        """Set how many bytes of messages that are arriving or waiting to be handed over it may hold."""


def chosen(settings: Settings) -> str:
    """The transport that the settings ask for, by name; `auto` means `native` where it is built.

    Raises:
        StartError: it is `native`, which is not built.
    """
    if settings.transport == "native" and native_transport is None:
        raise StartError(f'transport "native" is not built ({NOT_BUILT}): run `make native`')
    if settings.transport == "auto":
        return "grpc" if native_transport is None else "native"
    return settings.transport


def create(settings: Settings, certificates: Watched[Pem] | None, gate: Gate) -> Transport:
    """The transport that the settings ask for.

    Raises:
        StartError: it is not built.
    """
    if chosen(settings) == "native":
        return native_transport.Server(settings, certificates, gate)
    return grpc_transport.Server(settings, certificates, gate)
