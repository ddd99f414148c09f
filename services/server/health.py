"""grpc.health.v1: whether the server and each of its services would answer.

Probes call it, so its RPCs pass a gate of their own: they need no token and are answered while the server drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from grpc_health.v1 import health_pb2 as pb

from services.errors import NotFound, Unavailable
from services.rpc import Call
from services.server import registry
from services.server.auth import ANY_TOKEN
from services.server.registry import Method

SERVICE = pb.DESCRIPTOR.services_by_name["Health"]
SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING


class HealthServicer:
    """Status by name of the service; the empty name is the whole server."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._draining = self._closed = False
        self._changed = asyncio.Event()

    def set(self, service: str, serving: bool) -> None:
        """Set whether a service answers; has no effect once the server drains."""
        status = SERVING if serving and not self._draining else NOT_SERVING
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            self._notify()

    def drain(self) -> None:
        """Report NOT_SERVING for every service from now on."""
        self._draining = True
        for service in self._statuses:
            self.set(service, False)

    def close(self) -> None:
        """End every Watch, which would otherwise keep the server from stopping."""
        self._closed = True
        self._notify()

    def methods(self) -> Iterator[Method]:
        """Its RPCs."""
        return registry.methods(SERVICE, self, ANY_TOKEN)

    async def Check(self, request: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        if request.service not in self._statuses:
            raise NotFound.field("service", f"no service is called {request.service!r}")
        return pb.HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(self, request: pb.HealthCheckRequest, call: Call) -> AsyncIterator[pb.HealthCheckResponse]:
        last = None
        while not self._closed:
            changed = self._changed
            status = self._statuses.get(request.service, pb.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != last:
                yield pb.HealthCheckResponse(status=status)
                last = status
            if changed is self._changed:
                await changed.wait()
        raise Unavailable("the server has stopped")

    def _notify(self) -> None:
        """Wake every Watch: each waits for the latest event that it knows."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
