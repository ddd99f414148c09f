"""`lectern serve`."""

from __future__ import annotations

import logging

from services.server import logs, supervisor
from services.server.banner import announce
from services.server.http import start_http
from services.server.registry import SERVICERS
from services.server.settings import Settings, StartError

LOOPBACK = ("127.0.0.1", "::1", "localhost")

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        StartError: a port, the repository or the device is not as asked for; the message says what to do.
    """
    if unknown := sorted(set(settings.capabilities) - SERVICERS.keys()):
        raise StartError(f"no capability is called {unknown[0]!r}; there are: {', '.join(SERVICERS)}")
    logs.configure(settings)
    if settings.tokens and not settings.tls_certificate and settings.host not in LOOPBACK:
        log.warning("tokens reach this server in plain text unless a proxy before it speaks TLS: see docs/security.md")
    if settings.workers > 1:
        supervisor.run(settings)
    else:
        _run_alone(settings)


def _run_alone(settings: Settings) -> None:
    # Imported here, so that a supervisor of workers stays small.
    import uvloop

    from services.server.app import App

    app = App(settings)
    metrics_port = start_http(settings.host, settings.metrics_port, lambda: app.serving, lambda: app.ready)
    uvloop.run(app.run(lambda ready: announce(settings, ready, metrics_port)))
