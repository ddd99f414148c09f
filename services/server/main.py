"""`lectern serve`."""

from __future__ import annotations

import logging

from lectern.names import unknown
from services.server import logs, supervisor
from services.server.addresses import LOOPBACK
from services.server.banner import announce
from services.server.capabilities import CAPABILITIES
from services.server.http import start_http
from services.server.settings import Settings, StartError

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until a signal stops the server.

    Raises:
        StartError: a port, the repository or the device is not available; the message says what to do.
    """
    if wrong := sorted(set(settings.capabilities) - CAPABILITIES.keys()):
        raise StartError(unknown("capability", wrong[0], CAPABILITIES))
    logs.configure(settings)
    if settings.tokens and not settings.tls_certificate and settings.host not in LOOPBACK:
        log.warning(
            "tokens reach this server in plaintext unless a proxy in front of it uses TLS: see docs/security.md"
        )
    if settings.workers > 1:
        supervisor.run(settings)
    else:
        _run_alone(settings)


def _run_alone(settings: Settings) -> None:
    # Imported here, so that a supervisor of workers stays small.
    import uvloop

    from services.server.app import App

    app = App(settings)
    metrics_port = start_http(
        settings.host,
        settings.metrics_port,
        lambda: app.serving,
        lambda: app.ready,
        triton_names=settings.triton_metrics,
    )
    uvloop.run(app.run(lambda ready: announce(settings, ready, metrics_port)))
