"""The HTTP server of one process: listens, serves endpoints, and drains."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Iterable
from email.utils import formatdate

import uvicorn
from uvicorn.server import ServerState

from services.server.addresses import addresses, listening
from services.server.door.app import application
from services.server.door.connection import Bounds, Connection
from services.server.pipeline import Endpoint
from services.server.settings import Settings
from services.server.tls import Pem, context
from services.server.watched import Watched

BACKLOG = 1024
FLUSH_SECONDS = 0.05


class Door:
    """Serves endpoints over HTTP/1.1.

    Args:
        certificates: None = plaintext.
    """

    def __init__(self, settings: Settings, certificates: Watched[Pem] | None, endpoints: Iterable[Endpoint]) -> None:
        self._settings, self._certificates = settings, certificates
        app = application(settings, {f"/{endpoint.path}": endpoint for endpoint in endpoints})
        self._config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # anybody could write them
            timeout_keep_alive=settings.http_idle_seconds,  # type: ignore[arg-type]  # a float does as well
            h11_max_incomplete_event_size=settings.http_header_bytes,
        )
        self._bounds = Bounds(
            settings.http_connections,
            settings.http_address_connections,
            settings.http_header_seconds,
            settings.reader_timeout_seconds,
            settings.max_connection_age_seconds,
        )
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []
        self._clock: asyncio.Task[None] | None = None
        # A request that is no HTTP is its caller's fault, and not worth a line.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    async def start(self, host: str, port: int) -> int:
        """Listen, alone or beside the other workers of one supervisor; returns the port.

        Raises:
            OSError: the address is taken.
        """
        self._config.load()
        self._clock = asyncio.create_task(self._keep_date())
        tls = None if self._certificates is None else _Contexts(self._certificates).first
        handshake = None if tls is None else self._settings.http_header_seconds
        loop = asyncio.get_running_loop()
        for family, address in addresses(host, port):
            sock = listening(family, (address[0], port), BACKLOG, shared=self._settings.workers > 1)
            port = sock.getsockname()[1]
            server = await loop.create_server(
                self._connect, sock=sock, ssl=tls, ssl_handshake_timeout=handshake, backlog=BACKLOG
            )
            self._servers.append(server)
        return port

    def _connect(self) -> Connection:
        return Connection(self._bounds, self._config, self._state)

    def send_elsewhere(self) -> None:
        """Close each connection after its next response; go on answering."""
        self._bounds.leaving = True

    async def stop(self) -> None:
        """Stop listening, and finish requests that have begun within the drain time."""
        end = time.monotonic() + self._settings.drain_seconds
        for server in self._servers:
            server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            _, late = await asyncio.wait(self._state.tasks, timeout=self._settings.drain_seconds)
            for task in late:
                task.cancel()
        await self._flush(end)
        if self._clock is not None:
            self._clock.cancel()

    async def _flush(self, end: float) -> None:
        """Wait until callers have taken what was sent to them; uvicorn tells nobody."""
        while self._state.connections and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(FLUSH_SECONDS)

    async def _keep_date(self) -> None:
        """Set the header Date of responses, once a second."""
        while True:
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            await asyncio.sleep(1)


class _Contexts:
    """TLS contexts of certificates that may change: each handshake takes the present one.

    Attributes:
        first: the context of the listening socket, which hands each handshake over.
    """

    def __init__(self, certificates: Watched[Pem]) -> None:
        self._certificates = certificates
        self._pem = certificates.value
        self._current = self.first = _context(self._pem)
        self.first.sni_callback = self._renew

    def _renew(self, tls: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Called at each handshake, with a server name or without."""
        if (pem := self._certificates.value) is not self._pem:
            self._current, self._pem = _context(pem), pem
        tls.context = self._current


def _context(pem: Pem) -> ssl.SSLContext:
    made = context(pem)
    made.set_alpn_protocols(["http/1.1"])
    return made
