"""HTTP for machines that watch: `/metrics` for Prometheus, `/healthz` for probes that speak no gRPC, or no TLS."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from services.server.settings import StartError

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


_ANSWERS: dict[bool | None, tuple[str, dict[str, Any]]] = {
    True: ("200 OK", {"status": "SERVING"}),
    False: ("503 Service Unavailable", {"status": "NOT_SERVING"}),
    None: ("404 Not Found", {"paths": ["/metrics", "/healthz", "/healthz/SERVICE"]}),
}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """A scrape every few seconds is not worth a line."""


# Whether the server (empty name) or a service answers; None = there is no such service.
Healthy = Callable[[str], bool | None]


def start_http(host: str, port: int, healthy: Healthy, registry: CollectorRegistry = REGISTRY) -> int:
    """Serve in a background thread; returns the port.

    Raises:
        StartError: the address is taken.
    """
    metrics_app = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path, _, service = environ["PATH_INFO"][1:].partition("/")
        if path == "metrics":
            return metrics_app(environ, start_response)  # type: ignore[no-any-return]
        status, document = _ANSWERS[healthy(service) if path == "healthz" else None]
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(document).encode() + b"\n"]

    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port} for HTTP ({error.strerror}): choose another with --metrics-port"
        ) from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return int(server.server_port)
