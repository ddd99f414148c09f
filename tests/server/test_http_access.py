"""The HTTP door as an operator sets it up: tokens, TLS, workers, ports, and its end."""

from __future__ import annotations

import json
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from google.rpc import code_pb2

from lectern import Client, LecternError
from tests.conftest import Server, serving
from tests.graphs import add_graph, burn, burn_config
from tests.server.pki import Pki, make_token
from tests.server.test_addresses import needs_ipv6, start
from tests.server.test_http import MODELS, connect, post
from tests.server.test_http_bounds import PREDICT, everything, header, raw, started
from tests.waiting import WAIT, wait_until


def test_tokens_are_those_of_grpc(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    allowed, other = make_token(tokens, "alice", "--scope", "models"), make_token(tokens, "bob", "--scope", "predict")
    with serving(tmp_path, "predict", LECTERN_TOKENS=str(tokens)) as server:
        connection = connect(server)
        code, headers, body = post(connection, MODELS)
        assert (code, headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(body)["code"] == code_pb2.UNAUTHENTICATED
        assert post(connection, MODELS, authorization="Bearer nothing")[0] == 401
        code, _, body = post(connection, MODELS, authorization=f"Bearer {other}")
        assert (code, json.loads(body)["code"]) == (403, code_pb2.PERMISSION_DENIED)
        assert post(connection, MODELS, authorization=f"Bearer {allowed}")[0] == 200
        connection.close()


def test_a_caller_without_a_token_has_no_body_read(tmp_path: Path) -> None:
    make_token(tokens := tmp_path / "tokens.json", "alice", "--scope", "models")
    with serving(tmp_path, "predict", LECTERN_TOKENS=str(tokens)) as server:
        connection = connect(server)
        connection.putrequest("POST", MODELS)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "30000000")
        connection.endheaders()
        assert connection.getresponse().status == 401
        connection.close()


def test_limits_of_clients_hold(tmp_path: Path) -> None:
    with serving(
        tmp_path, "predict", LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND="0.01", LECTERN_CLIENT_LIMITS__BURST="2"
    ) as server:
        connection = connect(server)
        codes = [post(connection, MODELS)[0] for _ in range(2)]
        code, headers, body = post(connection, MODELS)
        assert (codes, code, json.loads(body)["code"]) == ([200, 200], 429, code_pb2.RESOURCE_EXHAUSTED)
        assert int(headers["retry-after"]) > 1
        connection.close()


@pytest.mark.parametrize("transport", ["grpc", "auto"])
@pytest.mark.parametrize("named", [True, False])
def test_both_doors_have_one_budget(tmp_path: Path, transport: str, named: bool) -> None:
    limits = {"LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND": "0.001", "LECTERN_CLIENT_LIMITS__BURST": "2"}
    token = make_token(tmp_path / "tokens.json", "alice", "--scope", "models") if named else None
    if named:
        limits["LECTERN_TOKENS"] = str(tmp_path / "tokens.json")
    with (
        serving(tmp_path, "predict", LECTERN_TRANSPORT=transport, **limits) as server,
        Client(server.target, timeout=WAIT, token=token) as client,
        closing(connect(server)) as connection,
    ):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        assert post(connection, MODELS, **headers)[0] == 200
        assert client.list_models().models
        assert post(connection, MODELS, **headers)[0] == 429
        with pytest.raises(LecternError, match="RESOURCE_EXHAUSTED"):
            client.list_models()


def over_tls(server: Server, pki: Pki, certificate: bool = False) -> HTTPSConnection:
    context = ssl.create_default_context(cafile=str(pki.ca))
    if certificate:
        context.load_cert_chain(pki.file("client.pem"), pki.file("client.key"))
    return HTTPSConnection(urlsplit(server.http_url).netloc, timeout=WAIT, context=context)


def serial(server: Server, pki: Pki) -> str:
    """The serial number of the certificate that a new connection gets."""
    connection = over_tls(server, pki)
    connection.connect()
    number = connection.sock.getpeercert()["serialNumber"]
    assert post(connection, MODELS)[0] == 200
    connection.close()
    return str(number)


def test_tls_has_grpcs_certificate_and_takes_a_new_one(tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    with serving(tmp_path, "predict", **pki.settings()) as server:
        first = serial(server, pki)
        plain = connect(server)
        with pytest.raises(OSError, match=r"closed|reset"):
            post(plain, MODELS)
        pki.issue("server", "127.0.0.1")
        wait_until(lambda: serial(server, pki) != first)


def test_mutual_tls_names_the_client(tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    with serving(tmp_path, "predict", **pki.settings(mutual=True)) as server:
        with pytest.raises(OSError):  # noqa: PT011 - how a handshake fails differs
            post(over_tls(server, pki), MODELS)
        connection = over_tls(server, pki, certificate=True)
        assert post(connection, PREDICT, {"model": "nothing"}, x_request_id="named")[0] == 404
        connection.close()
        (record,) = (r for r in server.log_records() if r.get("request_id") == "named")
        assert "CN=alice" in str(record["client"])


@pytest.mark.parametrize("transport", ["grpc", "auto"])
def test_workers_share_the_port(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path, "predict", "--workers", "2", "--transport", transport) as server:
        for _ in range(10):
            connection = connect(server)
            assert post(connection, MODELS)[0] == 200
            connection.close()


@needs_ipv6
def test_both_families_of_localhost_are_served(tmp_path: Path) -> None:
    with serving(tmp_path, "predict", "--host", "localhost") as server:
        port = urlsplit(server.http_url).port
        for host in ("127.0.0.1", "::1"):
            connection = HTTPConnection(host, port, timeout=WAIT)
            assert post(connection, MODELS)[0] == 200
            connection.close()


def test_off_is_off(tmp_path: Path) -> None:
    with serving(tmp_path, "predict", "--http-port", "off") as server:
        assert server.http_url.endswith(":None")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_named(workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = start("--port", "0", "--http-port", str(port), "--workers", workers)
    assert result.returncode == 1
    said = " ".join(result.stderr.split())
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "--http-port off" in said
    assert "Traceback" not in said


def test_a_port_is_a_number_or_off() -> None:
    result = start("--http-port", "none")
    assert result.returncode == 2
    assert "--http-port is 'none'" in result.stderr


def test_a_stopping_server_finishes_what_it_accepted(tmp_path: Path) -> None:
    add_graph(repository := tmp_path / "exported", "burn", burn(), burn_config(8))
    with serving(tmp_path, "predict", repository=repository) as server, ThreadPoolExecutor() as pool:
        idle, connection = connect(server), connect(server)
        code, headers, _ = post(idle, MODELS)
        assert (code, "connection" in headers) == (200, False)
        request = {"model": "burn", "rows": [{"features": [500]}]}
        answer = pool.submit(post, connection, PREDICT, request)
        wait_until(lambda: started(server, "Predict") == 1)
        server.process.terminate()
        assert answer.result(WAIT)[0] == 200
        assert server.process.wait(WAIT) == 0


@pytest.mark.parametrize("transport", ["grpc", "auto"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stopping_server_reads_what_is_on_its_way(tmp_path: Path, workers: str, transport: str) -> None:
    options = ("--workers", workers, "--transport", transport)
    with serving(tmp_path, "predict", *options) as server, raw(server) as connection:
        connection.sendall(header(MODELS, "content-type: application/json", "content-length: 100000") + b"{")
        wait_until(lambda: started(server, "ListModels") == 1)
        server.process.terminate()
        wait_until(lambda: "draining" in server.log.read_text())
        connection.sendall(b"}".rjust(99_999))
        assert everything(connection).startswith(b"HTTP/1.1 200")
        assert server.process.wait(WAIT) == 0


@pytest.mark.parametrize("transport", ["grpc", "auto"])
def test_callers_are_sent_elsewhere_before_the_end(tmp_path: Path, transport: str) -> None:
    environment = {"LECTERN_DRAIN_PAUSE_SECONDS": "5", "LECTERN_TRANSPORT": transport}
    with serving(tmp_path, "predict", **environment) as server:
        connection = connect(server)
        assert "connection" not in post(connection, MODELS)[1]
        server.process.terminate()
        wait_until(lambda: "draining" in server.log.read_text())
        code, headers, _ = post(connection, MODELS)
        assert (code, headers["connection"]) == (200, "close")
        assert server.process.wait(WAIT) == 0


def test_an_old_connection_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, "predict", LECTERN_MAX_CONNECTION_AGE_SECONDS="0.1") as server:
        connection = connect(server)
        wait_until(lambda: post(connection, MODELS)[1].get("connection") == "close")
        connection.close()
