"""HTTP for machines that watch: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes without gRPC or TLS."""

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


_Answer = tuple[str, dict[str, object]]
_SERVING: _Answer = ("200 OK", {"status": "SERVING"})
_NOT_SERVING: _Answer = ("503 Service Unavailable", {"status": "NOT_SERVING"})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """A scrape every few seconds is not worth a line."""


def start_http(
    host: str,
    port: int,
    serving: Callable[[], bool],
    ready: Callable[[], bool],
    registry: CollectorRegistry = REGISTRY,
) -> int:
    """Serve in a background thread; returns the port.

    Args:
        serving: whether the process answers.
        ready: whether each of its services does too.

    Raises:
        StartError: the address is taken.
    """
    metrics_app = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics_app(environ, start_response)  # type: ignore[no-any-return]
            case "/healthz":
                status, document = _SERVING if serving() else _NOT_SERVING
            case "/readyz":
                status, document = _SERVING if ready() else _NOT_SERVING
            case _:
                status, document = "404 Not Found", {"paths": ["/metrics", "/healthz", "/readyz"]}
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
