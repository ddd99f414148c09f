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
from services.server.tls import Pem
from services.server.watched import Watched

BACKLOG = 1024
FLUSH_SECONDS = 0.05

log = logging.getLogger(__name__)


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
        context = None if self._certificates is None else _Contexts(self._certificates, self._settings).first
        handshake = None if context is None else self._settings.http_header_seconds
        loop = asyncio.get_running_loop()
        for family, address in addresses(host, port):
            sock = listening(family, (address[0], port), BACKLOG, shared=self._settings.workers > 1)
            port = sock.getsockname()[1]
            server = await loop.create_server(
                self._connect, sock=sock, ssl=context, ssl_handshake_timeout=handshake, backlog=BACKLOG
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

    def __init__(self, certificates: Watched[Pem], settings: Settings) -> None:
        self._certificates, self._settings = certificates, settings
        self._pem = certificates.value
        self._current = self.first = _context(settings)
        self.first.sni_callback = self._renew

    def _renew(self, tls: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Called at each handshake, with a server name or without."""
        if (pem := self._certificates.value) is not self._pem:
            try:
                self._current, self._pem = _context(self._settings), pem
            except (OSError, ssl.SSLError) as error:  # the files change right now: the next handshake tries again
                log.warning("the previous certificate is used once more: %s", error)
        tls.context = self._current


def _context(settings: Settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    assert settings.tls_certificate is not None  # noqa: S101 - there are certificates
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(settings.tls_client_ca)
    return context
