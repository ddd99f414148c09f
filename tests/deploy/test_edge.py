"""The edge as callers meet it: a real Envoy before two real servers."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import grpc
import numpy as np
import pytest

from lectern import TLS, Client
from lectern.v1 import act_pb2, classify_pb2
from tests.conftest import encode, serving
from tests.deploy.envoy import EDGE, Edge, edge
from tests.interoperability.environments import node_modules_with
from tests.programs import needs
from tests.server.pki import Pki
from tests.waiting import WAIT

CLASSIFY = "/lectern.v1.ClassifyService/ClassifyImage"
SERVED = ("act", "classify")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def front(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with ExitStack() as stack:
        directories = [tmp_path_factory.mktemp(name) for name in ("first", "second", "edge")]
        servers = [stack.enter_context(serving(directory, *SERVED)) for directory in directories[:2]]
        yield stack.enter_context(edge(directories[2], [server.target for server in servers], pki, "classify"))


@pytest.fixture
def https(front: Edge, pki: Pki) -> Iterator[http.client.HTTPSConnection]:
    host, _, port = front.target.partition(":")
    context = ssl.create_default_context(cafile=str(pki.ca))
    connection = http.client.HTTPSConnection(host, int(port), timeout=WAIT, context=context)
    yield connection
    connection.close()


@pytest.fixture(params=["edge", "server"])
def speaks_json(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[http.client.HTTPConnection]:
    """What speaks the same JSON: Envoy before the servers, and a server's own HTTP port."""
    if request.param == "edge":
        yield request.getfixturevalue("https")
        return
    netloc = request.getfixturevalue("server").http_url.removeprefix("http://")
    connection = http.client.HTTPConnection(netloc, timeout=WAIT)
    yield connection
    connection.close()


def post(
    connection: http.client.HTTPConnection, path: str, body: bytes, kind: str = "application/json"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request("POST", path, body, {"content-type": kind, "origin": page_of(connection)})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def page_of(connection: http.client.HTTPConnection) -> str:
    """The origin of a page that may call: the edge lets every page, the server its own."""
    edge = isinstance(connection, http.client.HTTPSConnection)
    return "https://page.example.com" if edge else f"http://{connection.host}:{connection.port}"


def test_every_kind_of_call_passes(front: Edge, pki: Pki, photos: np.ndarray) -> None:
    with Client(front.target, tls=TLS(pki.ca), timeout=WAIT) as client:
        assert client.classify_image(encode(photos[0]), top_k=1).results[0].classes[0].label
        assert [step.step for step in client.run_episode(5, max_steps=3)] == [1, 2, 3]
        assert len(list(client.stream_classify_image(encode(photo) for photo in photos[:20]))) == 20


def test_json_is_answered_and_an_error_names_its_field(
    speaks_json: http.client.HTTPConnection, photos: np.ndarray
) -> None:
    photo = base64.b64encode(encode(photos[0])).decode()
    status, headers, body = post(speaks_json, CLASSIFY, json.dumps({"images": [photo], "topK": 1}).encode())
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["results"][0]["classes"][0]["label"]
    status, _, body = post(speaks_json, CLASSIFY, json.dumps({"images": [photo, "AAAA"]}).encode())
    error = json.loads(body)
    assert (status, error["code"]) == (400, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    violations = [v for d in error["details"] for v in d.get("fieldViolations", [])]
    assert [violation["field"] for violation in violations] == ["images[1]"]


def test_a_stream_in_json_is_a_message_a_line(speaks_json: http.client.HTTPConnection) -> None:
    status, _, body = post(speaks_json, "/lectern.v1.ActService/RunEpisode", b'{"seed": 5, "maxSteps": 3}')
    assert status == 200
    assert [json.loads(line)["step"] for line in body.splitlines()] == [1, 2, 3]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/stats/prometheus",
        "/lectern.v1.ClassifyService/Nothing",
        "/lectern.v1.NothingService/Classify",
    ],
)
def test_what_is_not_a_method_is_not_found(speaks_json: http.client.HTTPConnection, path: str) -> None:
    status, _, body = post(speaks_json, path, b"{}")
    assert status == 404
    assert json.loads(body)["code"] == grpc.StatusCode.NOT_FOUND.value[0]


def test_malformed_json_is_the_callers_fault(speaks_json: http.client.HTTPConnection) -> None:
    status, _, body = post(speaks_json, CLASSIFY, b'{"images": ')
    assert status == 400
    assert json.loads(body)["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_the_edge_leaves_the_service_of_models_out(https: http.client.HTTPSConnection) -> None:
    assert post(https, "/lectern.v1.ModelService/ListModels", b"{}")[0] == 404


def test_what_one_takes_the_other_takes(speaks_json: http.client.HTTPConnection) -> None:
    """Names, numbers and defaults of proto JSON, and a deadline in gRPC's header."""
    answers = [
        post(speaks_json, "/lectern.v1.ActService/RunEpisode", body)
        for body in (b'{"seed": "5", "max_steps": 2}', b'{"seed": 5, "maxSteps": 2, "version": "0", "model": ""}')
    ]
    assert [status for status, _, _ in answers] == [200, 200]
    first, second = ([json.loads(line) for line in body.splitlines()] for _, _, body in answers)
    assert first == second
    assert {type(message["version"]) for message in first} == {str}
    headers = {"content-type": "application/json", "grpc-timeout": "1m"}
    speaks_json.request("POST", "/lectern.v1.ActService/RunEpisode", b'{"maxSteps": 1000}', headers)
    response = speaks_json.getresponse()
    body = response.read()
    assert response.status == 504 or b'"step"' in body  # it has begun to answer


@pytest.mark.parametrize("body", [b"[]", b'{"maxSteps": -1}', b'{"maxSteps": "many"}', b'{"maxSteps": []}', b"\xff"])
def test_what_one_refuses_the_other_refuses(speaks_json: http.client.HTTPConnection, body: bytes) -> None:
    status, _, answer = post(speaks_json, "/lectern.v1.ActService/RunEpisode", body)
    assert (status, json.loads(answer)["code"]) == (400, grpc.StatusCode.INVALID_ARGUMENT.value[0])


def test_a_page_of_any_origin_calls_by_grpc_web(https: http.client.HTTPSConnection, photos: np.ndarray) -> None:
    asked = {"origin": "https://page.example.com", "access-control-request-method": "POST"}
    https.request("OPTIONS", CLASSIFY, headers=asked | {"access-control-request-headers": "x-grpc-web,authorization"})
    answer = https.getresponse()
    answer.read()
    assert answer.headers["access-control-allow-origin"] == "https://page.example.com"
    assert {"x-grpc-web", "authorization"} <= set(answer.headers["access-control-allow-headers"].split(", "))
    request = classify_pb2.ClassifyImageRequest(images=[encode(photos[0])], top_k=1)
    _, headers, body = post(https, CLASSIFY, frame(request.SerializeToString()), "application/grpc-web+proto")
    assert headers["access-control-allow-origin"] == "https://page.example.com"
    (message, trailers), flags = unpack(body)
    assert flags == [0, 0x80]
    assert classify_pb2.ClassifyImageResponse.FromString(message).results[0].classes[0].label
    assert b"grpc-status:0" in trailers.replace(b" ", b"")


def frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def unpack(body: bytes) -> tuple[list[bytes], list[int]]:
    """Contents and flags of the frames of a gRPC-Web answer; the last are its trailers."""
    contents, flags = [], []
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        contents.append(body[5 : 5 + length])
        flags.append(flag)
        body = body[5 + length :]
    return contents, flags


def test_nodes_grpc_js_calls_with_the_descriptors_of_the_edge(
    front: Edge, pki: Pki, photos: np.ndarray, tmp_path: Path
) -> None:
    modules = node_modules_with("grpc-js", "@grpc/grpc-js@1.14.7", "grpc-js-reflection-client@1.4.2")
    (tmp_path / "photo.png").write_bytes(encode(photos[0]))
    script = Path(__file__).parent / "clients" / "grpc_js.js"
    command = ["node", script, front.target, pki.ca, EDGE / "lectern.pb", tmp_path / "photo.png"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT, env=os.environ | {"NODE_PATH": str(modules)}
    )
    assert result.returncode == 0, result.stderr[-3000:]
    answers = json.loads(result.stdout)
    assert answers["label"]
    assert (answers["steps"], answers["streamed"], answers["error"]) == (3, 3, "INVALID_ARGUMENT")


def test_metrics_have_a_port_of_their_own_that_changes_nothing(front: Edge) -> None:
    assert front.of_cluster("membership_healthy", "classify") == 2
    host, _, port = front.metrics_url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=WAIT)
    connection.request("POST", "/quitquitquit")
    assert connection.getresponse().status == 404


def test_a_browser_calls_from_a_page_of_another_origin(front: Edge) -> None:
    """Chromium asks for leave first (CORS), then sends the message as it stands and reads the trailers."""
    needs("chromium")
    request = act_pb2.RunEpisodeRequest(seed=5, max_steps=3).SerializeToString()
    url = f"https://{front.target}/lectern.v1.ActService/RunEpisode"
    query = urlencode({"url": url, "message": base64.b64encode(request).decode()})
    with http_server(Path(__file__).parent / "clients") as origin:
        # A headless page ends when time, which runs ahead while nothing is awaited, has.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--dump-dom"]
        page = f"{origin}/grpc_web.html?{query}"
        command = ["chromium", *options, "--virtual-time-budget=60000", page]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=WAIT).stdout
    text = re.search(r'<pre id="answer">(.*?)</pre>', shown, re.DOTALL)
    assert text, shown
    answer = json.loads(text[1])
    steps = [act_pb2.RunEpisodeResponse.FromString(base64.b64decode(message)).step for message in answer["messages"]]
    assert steps == [1, 2, 3]
    assert "grpc-status:0" in "".join(answer["trailers"]).replace(" ", "")


@contextmanager
def http_server(directory: Path) -> Iterator[str]:
    """The origin of a server of the files there."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
