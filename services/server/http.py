"""The HTTP port for monitoring: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes without gRPC or TLS."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from services import metrics
from services.server.addresses import Address, addresses, authority
from services.server.settings import StartError
from services.server.triton_names import Source, WithTritonNames

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


_Answer = tuple[str, dict[str, object]]
_SERVING: _Answer = ("200 OK", {"status": "SERVING"})
_NOT_SERVING: _Answer = ("503 Service Unavailable", {"status": "NOT_SERVING"})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: Address, app: Callable[[dict[str, Any], StartResponse], Iterable[bytes]]) -> None:
        self.address_family, host_and_port = address
        super().__init__(host_and_port, _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        # Replaces the base class's method, which asks a resolver for this machine's name and waits for the answer.
        if self.address_family == socket.AF_INET6:
            both_families = self.server_address[0] == "::"
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds after which a silent connection is closed

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing: a scrape every few seconds is not worth a line."""


def start_http(
    host: str,
    port: int,
    serving: Callable[[], bool],
    ready: Callable[[], bool],
    source: Source = REGISTRY,
    *,
    triton_names: bool = False,
) -> int:
    """Serve in a background thread; returns the port.

    Args:
        serving: whether the process answers.
        ready: whether each of its services does too.
        source: of the metrics.
        triton_names: give them by Triton's names too.

    Raises:
        StartError: the address is taken.
    """
    metrics_app = make_wsgi_app(_registry(source, triton_names))

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        body = b"".join(answer(environ | ({"REQUEST_METHOD": "GET"} if is_head else {}), start_response))
        return [] if is_head else [body]

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                metrics.collect_sources()
                return metrics_app(environ, start_response)  # type: ignore[no-any-return]
            case "/healthz":
                status, document = _SERVING if serving() else _NOT_SERVING
            case "/readyz":
                status, document = _SERVING if ready() else _NOT_SERVING
            case _:
                status, document = "404 Not Found", {"paths": ["/metrics", "/healthz", "/readyz"]}
        body = json.dumps(document).encode() + b"\n"
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    servers: list[_Server] = []
    try:
        for family, (address, _) in addresses(host, port):
            servers.append(_Server((family, (address, port)), app))
            port = servers[0].server_port  # the same for every address, even if port 0 was asked for
    except OSError as error:
        for server in servers:
            server.server_close()
        raise StartError(
            f"cannot listen on {authority(host, port)} for HTTP ({error.strerror}): choose another with --metrics-port"
        ) from error
    for server in servers:
        threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return port


def _registry(source: Source, triton_names: bool) -> CollectorRegistry:
    if triton_names:
        source = WithTritonNames(source)
    if isinstance(source, CollectorRegistry):
        return source
    registry = CollectorRegistry()
    registry.register(source)
    return registry
