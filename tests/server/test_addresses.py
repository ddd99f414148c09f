"""Where a server listens: one owner for each port, either family of addresses, HTTP without a resolver."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

import lectern
from services.server.addresses import addresses, authority, check_free
from services.server.http import start_http
from tests.conftest import ROOT, Server, serving
from tests.waiting import WAIT


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A `lectern serve` that must fail."""
    command = [sys.executable, "-m", "lectern", "serve", "predict", "--metrics-port", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT, env=os.environ | environment)


needs_ipv6 = pytest.mark.skipif(len(addresses("localhost", 0)) < 2, reason="this machine has no IPv6")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_has_one_server(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, "predict", "--workers", workers) as server:
        port = server.target.rpartition(":")[2]
        for others in ("1", "2"):
            second = start("--port", port, "--workers", others)
            assert second.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}" in " ".join(second.stderr.split())
            assert "share" not in second.stderr.lower().replace("shared", "")
            assert "REUSEPORT" not in second.stderr


def test_a_taken_port_is_named_before_models_are_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = start("--port", str(taken.getsockname()[1]), LECTERN_LOG_FORMAT="json")
    assert result.returncode == 1
    assert "cannot listen on" in result.stderr
    assert '"loaded' not in result.stderr


def test_a_port_that_is_only_reserved_for_workers_is_taken() -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            check_free(*reserved.getsockname())
    check_free(*("127.0.0.1", 0))


def test_a_port_whose_connections_have_just_ended_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address), listener.accept()[0]:
            pass  # the server's end closes last but one: its side of the connection stays in TIME_WAIT
    check_free(*address)


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_serves_on_ipv6(tmp_path: Path, host: str) -> None:
    with serving(tmp_path, "predict", "--host", host) as server:
        assert server.target.startswith(f"[{host}]:")
        port = server.target.rpartition(":")[2]
        metrics_port = int(server.metrics_url.rpartition(":")[2])
        hosts = ["::1"] if host == "::1" else ["::1", "127.0.0.1"]
        for reached in hosts:
            with lectern.Client(authority(reached, int(port))) as client:
                assert [model.name for model in client.list_models().models] == ["covid_regressor", "table_learner"]
            assert health(reached, metrics_port) == 200


@needs_ipv6
def test_localhost_is_both_families(tmp_path: Path) -> None:
    with serving(tmp_path, "predict", "--host", "localhost") as server:
        port = int(server.target.rpartition(":")[2])
        metrics_port = int(server.metrics_url.rpartition(":")[2])
        for host in ("127.0.0.1", "::1"):
            with lectern.Client(authority(host, port)) as client:
                assert len(client.list_models().models) == 2
            assert health(host, metrics_port) == 200


def health(host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=WAIT)
    connection.request("GET", "/healthz")
    return connection.getresponse().status


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing"])
def test_head_has_the_headers_of_get_and_no_body(server: Server, path: str) -> None:
    host, _, port = server.metrics_url.removeprefix("http://").partition(":")
    answers = {}
    for method in ("GET", "HEAD"):
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(f"{method} {path} HTTP/1.0\r\n\r\n".encode())
            answers[method] = b"".join(iter(lambda: connection.recv(2**16), b""))
    (get_head, _, get_body), (head, _, body) = (answers[m].partition(b"\r\n\r\n") for m in ("GET", "HEAD"))
    assert get_body
    assert body == b""
    assert head.split(b"\r\n")[0] == get_head.split(b"\r\n")[0]
    if path != "/metrics":  # which grows
        lengths = [next(x for x in text.split(b"\r\n") if b"Content-Length" in x) for text in (get_head, head)]
        assert lengths[0] == lengths[1]


def test_http_asks_no_resolver_for_this_machines_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(name: str = "") -> str:
        raise AssertionError(f"the name of {name} was asked")

    monkeypatch.setattr(socket, "getfqdn", slow)
    monkeypatch.setattr(socket, "gethostbyaddr", slow)
    assert health("127.0.0.1", start_http("127.0.0.1", 0, lambda: True, lambda: True)) == 200


def test_a_taken_http_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = start("--port", "0", "--metrics-port", str(port))
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port} for HTTP" in " ".join(result.stderr.split())
    assert os.linesep not in result.stderr.strip() or "Traceback" not in result.stderr


def test_addresses_are_written_as_in_urls() -> None:
    assert authority("127.0.0.1", 1) == "127.0.0.1:1"
    assert authority("::1", 2) == "[::1]:2"
    assert grpc.insecure_channel(authority("::1", 2)) is not None
