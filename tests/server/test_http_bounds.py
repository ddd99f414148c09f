"""What the HTTP door withstands: slow, large, many and foreign callers, and callers who go away."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from google.rpc import code_pb2

from lectern import Client, LecternError
from services import budget
from services.errors import DeadlineExceeded
from services.server.addresses import network
from services.server.door.calls import Line
from services.server.door.exchange import TooLarge
from services.server.pipeline import INLINE_BYTES
from tests.conftest import Server, serving
from tests.graphs import add_graph, burn, burn_config
from tests.server.test_http import EPISODE, MODELS, connect, post
from tests.waiting import WAIT, wait_until

PREDICT = "/lectern.v1.PredictService/Predict"
LONG = {"model": "burn", "rows": [{"features": [99_000]}]}  # takes minutes


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small bounds, of a graph that takes as long as one asks for."""
    directory = tmp_path_factory.mktemp("small")
    add_graph(repository := directory / "exported", "burn", burn(), burn_config(8))
    bounds = {
        "LECTERN_HTTP_HEADER_SECONDS": "1",
        "LECTERN_HTTP_BODY_SECONDS": "1",
        "LECTERN_HTTP_IDLE_SECONDS": "1",
        "LECTERN_HTTP_HEADER_BYTES": "4096",
        "LECTERN_HTTP_CONNECTIONS": "8",
        "LECTERN_LIMITS__MESSAGE_BYTES": "1000000",
    }
    with serving(directory, "predict", repository=repository, **bounds) as running:
        yield running


@contextmanager
def raw(server: Server) -> Iterator[socket.socket]:
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def header(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: localhost", *lines, "", ""]).encode()


@pytest.mark.parametrize("start", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nhost: localhost\r\nx-slow: "])
def test_a_caller_who_sends_no_header_is_given_up(small: Server, start: bytes) -> None:
    with raw(small) as connection:
        connection.sendall(start)
        assert everything(connection) == b""


def test_a_second_header_that_stops_is_given_up(small: Server) -> None:
    with raw(small) as connection:
        connection.sendall(header(MODELS, "content-length: 0") + b"POST /")
        assert everything(connection).startswith(b"HTTP/1.1 200")


def test_a_body_that_stops_is_given_up(small: Server) -> None:
    with raw(small) as connection:
        connection.sendall(header(MODELS, "content-type: application/json", "content-length: 100") + b"{")
        assert b"HTTP/1.1 504" in (answer := everything(connection))
        assert b"LECTERN_HTTP_BODY_SECONDS" in answer


def test_an_idle_connection_is_closed(small: Server) -> None:
    with raw(small) as connection:
        connection.sendall(header(MODELS, "content-length: 0"))
        assert everything(connection).count(b"HTTP/1.1 200") == 1


def test_a_large_header_is_refused(small: Server) -> None:
    with raw(small) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nx: " + b"x" * 100_000)
        answer = everything(connection)
    assert b"HTTP/1.1 400" in answer
    assert b"more than 4096 bytes" in answer


@pytest.mark.parametrize(
    "lines", [["content-length: 5000000"], ["transfer-encoding: chunked"]], ids=["announced", "chunked"]
)
def test_a_large_body_is_refused(small: Server, lines: list[str]) -> None:
    with raw(small) as connection:
        connection.sendall(header(MODELS, "content-type: application/json", *lines))
        if "chunked" in lines[0]:
            chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
            connection.sendall(chunk * 2)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code_pb2.RESOURCE_EXHAUSTED


def test_a_message_that_json_makes_longer_is_read(small: Server) -> None:
    connection = connect(small)
    rows = [{"features": [1]}] * 3000
    assert post(connection, PREDICT, {"model": "burn", "rows": rows})[0] == 200
    connection.close()


def test_a_connection_too_many_is_closed(small: Server) -> None:
    connections = [socket.create_connection((connect(small).host, connect(small).port), timeout=WAIT) for _ in range(8)]
    try:
        with raw(small) as another:
            assert everything(another) == b""
    finally:
        for connection in connections:
            connection.close()


def served(server: Server, address: str = "127.0.0.1") -> bool:
    """Whether a new connection from this address gets an answer."""
    connection = HTTPConnection(urlsplit(server.http_url).netloc, timeout=WAIT, source_address=(address, 0))
    try:
        return post(connection, MODELS)[0] == 200
    except (RemoteDisconnected, ConnectionError):
        return False
    finally:
        connection.close()


def test_one_caller_leaves_connections_to_others(tmp_path: Path) -> None:
    bounds = {"LECTERN_HTTP_CONNECTIONS": "8", "LECTERN_HTTP_ADDRESS_CONNECTIONS": "4"}
    with serving(tmp_path, "predict", **bounds) as server:
        with ExitStack() as held:
            for _ in range(4):
                held.enter_context(raw(server))
            assert not served(server)
            assert served(server, "127.0.0.2")
        wait_until(lambda: served(server))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_whoever_chooses_addresses_is_one_caller(address: str, caller: str) -> None:
    assert network(address) == caller


def test_bodies_that_never_come_keep_nobody_else_waiting(tmp_path: Path) -> None:
    never = {"LECTERN_HTTP_BODY_SECONDS": str(10 * WAIT), "LECTERN_MEMORY_BYTES": "200000000"}
    with serving(tmp_path, "predict", **never) as server, ExitStack() as held:
        for lines in (["content-length: 20000000"], ["transfer-encoding: chunked"]) * 4:
            held.enter_context(raw(server)).sendall(header(MODELS, "content-type: application/json", *lines))
        wait_until(lambda: started(server, "ListModels") == 8)
        with Client(server.target, timeout=WAIT) as client, pytest.raises(LecternError, match="INVALID_ARGUMENT"):
            client.predict([[0.0] * 50_000])  # large enough to need memory


@pytest.mark.parametrize("request_line", [b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\n"])
def test_what_is_no_http_is_refused(small: Server, request_line: bytes) -> None:
    with raw(small) as connection:
        connection.sendall(request_line)
        assert everything(connection)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403", b"")


def test_two_lengths_are_one_too_many(small: Server) -> None:
    """Request smuggling: a proxy might believe the other."""
    with raw(small) as connection:
        connection.sendall(header(MODELS, "content-length: 2", "content-length: 3") + b"{} ")
        assert everything(connection).startswith(b"HTTP/1.1 400")
    with raw(small) as connection:
        connection.sendall(header(MODELS, "content-length: 2", "transfer-encoding: chunked") + b"0\r\n\r\n")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"send one of them" in answer


def test_an_encoded_slash_is_refused(small: Server) -> None:
    """A proxy that keeps some paths from its callers might not take it for a slash."""
    for path in (MODELS.replace("/L", "%2fL"), "/v2%2Fmodels", "/%2e%2e%2f"):
        with raw(small) as connection:
            connection.sendall(header(path, "content-length: 0", "connection: close"))
            assert everything(connection).startswith(b"HTTP/1.1 400")


def ended(server: Server, method: str) -> list[str]:
    return [str(r["code"]) for r in server.log_records() if str(r.get("rpc", "")).endswith(method)]


def started(server: Server, method: str) -> float:
    with urlopen(f"{server.metrics_url}/metrics", timeout=WAIT) as response:
        lines = response.read().decode().splitlines()
    return sum(float(x.rpartition(" ")[2]) for x in lines if f'started_total{{grpc_method="{method}"' in x)


def test_a_caller_who_goes_away_ends_the_call(small: Server) -> None:
    before, calls = ended(small, "/Predict").count("CANCELLED"), started(small, "Predict")
    with raw(small) as connection:
        body = json.dumps(LONG).encode()
        connection.sendall(header(PREDICT, "content-type: application/json", f"content-length: {len(body)}") + body)
        wait_until(lambda: started(small, "Predict") > calls)
    wait_until(lambda: ended(small, "/Predict").count("CANCELLED") == before + 1)


def test_a_call_behind_a_page_ends_with_its_caller_too(small: Server) -> None:
    before, calls = ended(small, "/Predict").count("CANCELLED"), started(small, "Predict")
    with raw(small) as connection:
        body = json.dumps(LONG).encode()
        page = b"GET /docs/reference.js HTTP/1.1\r\nhost: localhost\r\n\r\n"
        lines = ("content-type: application/json", f"content-length: {len(body)}")
        connection.sendall(page + header(PREDICT, *lines) + body)
        wait_until(lambda: started(small, "Predict") > calls)
    wait_until(lambda: ended(small, "/Predict").count("CANCELLED") == before + 1)


@pytest.mark.parametrize("limit", ["200m", "1S", "100000u"])
def test_a_call_ends_at_its_deadline(small: Server, limit: str) -> None:
    connection = connect(small)
    code, _, body = post(connection, PREDICT, LONG, grpc_timeout=limit)
    assert (code, json.loads(body)["code"]) == (504, code_pb2.DEADLINE_EXCEEDED)
    connection.close()


@pytest.mark.parametrize("limit", ["5", "-1S", "1s", "123456789S", "S"])
def test_a_malformed_deadline_is_refused(small: Server, limit: str) -> None:
    connection = connect(small)
    code, _, body = post(connection, MODELS, {}, grpc_timeout=limit)
    assert (code, json.loads(body)["code"]) == (400, code_pb2.INVALID_ARGUMENT)
    connection.close()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "evil.example.com"}, 403),
        ({"host": "localhost.evil.example.com:8000"}, 403),
        ({"host": "127.0.0.1.evil.example.com"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:9000"}, 403),
        ({"host": "localhost:8000", "origin": "https://localhost:8000"}, 403),
        ({"host": "localhost:8000", "origin": "http://evil.example.com"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
    ],
)
def test_only_own_names_and_pages_may_call(small: Server, headers: dict[str, str], code: int) -> None:
    connection = connect(small)
    status, _, body = post(connection, MODELS, {}, **headers)
    assert status == code
    if code == 403:
        assert json.loads(body)["code"] == code_pb2.PERMISSION_DENIED
    connection.close()


def test_named_hosts_and_origins_may_call(tmp_path: Path) -> None:
    page = "https://page.example.com"
    names = {"LECTERN_HTTP_HOSTS": "models.example.com,other", "LECTERN_HTTP_ORIGINS": page}
    with serving(tmp_path, "predict", **names) as server:
        connection = connect(server)
        code, headers, _ = post(connection, MODELS, {}, host="models.example.com:443", origin=page)
        assert (code, headers["access-control-allow-origin"]) == (200, page)
        assert post(connection, MODELS, {}, origin="https://other.example.com")[0] == 403
        asked = {"origin": page, "access-control-request-method": "POST"}
        connection.request("OPTIONS", MODELS, headers=asked | {"access-control-request-headers": "authorization"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        assert "authorization" in response.headers["access-control-allow-headers"]
        connection.close()


def test_a_response_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, "predict", LECTERN_READER_TIMEOUT_SECONDS="1") as server, raw(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /docs/swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n"
        # Later requests wait behind responses that are not read, until the server gives the connection up.
        with pytest.raises(OSError, match=r"reset|pipe"):
            connection.sendall(request * 1_000_000)


def test_a_stream_that_nobody_reads_ends(tmp_path: Path) -> None:
    with serving(tmp_path, "act", LECTERN_READER_TIMEOUT_SECONDS="1") as server, raw(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = b'{"frameEvery": 1}'
        lines = ("accept: text/event-stream", "content-type: application/json", f"content-length: {len(body)}")
        connection.sendall((header(EPISODE, *lines) + body) * 20)  # more pictures than the system keeps for a reader
        wait_until(lambda: "CANCELLED" in ended(server, "/RunEpisode"))


def unsent(connection: socket.socket) -> int:
    """Bytes that the server's side of a connection has not got rid of; -1 = the server has closed it."""
    ends = [f"{port:04X}" for port in (connection.getpeername()[1], connection.getsockname()[1])]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, _, _, _, _, inode, *_ = line.split()
        if [local.rpartition(":")[2], remote.rpartition(":")[2]] == ends and inode != "0":
            return int(queues.partition(":")[0], 16)
    return -1


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists sockets")
def test_the_rest_of_a_response_that_nobody_reads_is_given_up(tmp_path: Path) -> None:
    bounds = {"LECTERN_READER_TIMEOUT_SECONDS": "1", "LECTERN_HTTP_IDLE_SECONDS": "5"}
    with serving(tmp_path, "predict", **bounds) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", urlsplit(server.http_url).port))
        request, before = b"GET /docs/swagger-ui/LICENSE HTTP/1.1\r\nhost: localhost\r\n\r\n", -1
        # Until the system takes no more; what is left is less than makes the server wait for its reader.
        while any(unsent(connection) > before for _ in range(50) if served(server)):
            before = unsent(connection) or -1
            connection.sendall(request)
        wait_until(lambda: unsent(connection) == -1)


def test_many_tiny_parts_leave_others_their_turn(server: Server) -> None:
    tiny = b"1\r\n \r\n" * 150_000
    lines = ("content-type: application/json", "transfer-encoding: chunked", "connection: close")
    with raw(server) as connection, ThreadPoolExecutor(1) as threads:

        def send() -> bytes:
            connection.sendall(header(MODELS, *lines) + tiny + b"0\r\n\r\n")
            return everything(connection)

        answer = threads.submit(send)
        others = 0
        while not answer.done():
            urlopen(f"{server.http_url}/v2/health/live", timeout=WAIT).read()
            others += 1
    assert answer.result().startswith(b"HTTP/1.1 200")
    assert others >= 10  # read all at once, the parts let one or two through


@pytest.mark.unit
async def test_a_line_in_a_million_parts_costs_no_more_than_a_whole_one() -> None:
    held = budget.arriving.total
    line = Line(most=2_000_000, seconds=WAIT)
    for _ in range(1_000_000):
        await line.grow(b"x")  # read again from its beginning for each part, it would take minutes
    assert line.ended(b"y") == b"x" * 1_000_000 + b"y"
    assert budget.arriving.try_take(held)  # nothing is held any more
    budget.arriving.give_back(held)


@pytest.mark.unit
async def test_a_long_line_must_end_some_time() -> None:
    line = Line(most=2_000_000, seconds=0)
    await line.grow(bytes(INLINE_BYTES + 1))
    with pytest.raises(DeadlineExceeded, match="a line did not arrive"):
        await line.grow(b"x")
    line.ended(b"")
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        await Line(most=10, seconds=WAIT).grow(bytes(11))
