"""The HTTP door: RPCs with JSON bodies, their errors, and streams as events or lines."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from google.rpc import code_pb2

from lectern import Client
from services.errors import ServiceError
from services.server.door.replies import HTTP_CODES
from tests.conftest import Server, encode
from tests.waiting import WAIT

CLASSIFY = "/lectern.v1.ClassifyService/ClassifyImage"
MODELS = "/lectern.v1.ModelService/ListModels"
EPISODE = "/lectern.v1.ActService/RunEpisode"
JSON = {"content-type": "application/json"}


@pytest.fixture
def http(server: Server) -> Iterator[HTTPConnection]:
    connection = connect(server)
    yield connection
    connection.close()


def connect(server: Server) -> HTTPConnection:
    return HTTPConnection(urlsplit(server.http_url).netloc, timeout=WAIT)


def post(
    connection: HTTPConnection, path: str, body: object = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Code, headers and body of the answer; `body` is sent as JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    connection.request("POST", path, content, JSON | {name.replace("_", "-"): v for name, v in headers.items()})
    response = connection.getresponse()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def picture(photos: np.ndarray, index: int = 0) -> str:
    return base64.b64encode(encode(photos[index])).decode()


def test_json_is_answered_as_over_grpc(http: HTTPConnection, server: Server, photos: np.ndarray) -> None:
    code, headers, body = post(http, CLASSIFY, {"images": [picture(photos)], "top_k": 2})
    assert (code, headers["content-type"]) == (200, "application/json")
    answer = json.loads(body)
    with Client(server.target, timeout=WAIT) as client:
        expected = client.classify_image(encode(photos[0]), top_k=2)
    assert (answer["model"], answer["version"]) == (expected.model, str(expected.version))
    assert [c["label"] for c in answer["results"][0]["classes"]] == [c.label for c in expected.results[0].classes]


def test_an_empty_body_is_an_empty_message(http: HTTPConnection) -> None:
    http.request("POST", MODELS)
    response = http.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["models"]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"images": ["AAAA"]}, "images[0]", "is not a PNG"),
        ({"picture": "AAAA"}, "picture", "there are: model, version, images, topK"),
        ({"topK": -1}, "topK", "out of range"),
        ({"topK": "two"}, "topK", "not an integer: 'two'"),
        ({"images": 3}, "images", "must be in []"),
        ({"images": [3]}, "images", "wrong JSON type"),
        ({"topK": f" at {'.' * 100_000}!"}, "topK", "parse integer"),
    ],
)
def test_an_error_names_its_field(http: HTTPConnection, body: object, field: str, says: str) -> None:
    code, _, answer = post(http, CLASSIFY, body)
    error = json.loads(answer)
    assert (code, error["code"]) == (400, code_pb2.INVALID_ARGUMENT)
    (violation,) = (v for detail in error["details"] for v in detail["fieldViolations"])
    assert violation["field"] == field
    assert says.lower() in violation["description"].lower()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"images": ', "not valid JSON"),
        (b'{"topK": NaN}', "NaN"),
        (b'{"topK": 1, "topK": 2}', "occurs twice"),
        (b"[]", "not a JSON object"),
        (b"\xff\xfe", "not valid JSON"),
        (rb'{"\ud800": 1}', "half of a surrogate pair"),
        (b"[" * 50_000, "nested too deeply"),
        (b"[" + b"[]," * 150_000 + b"[]]", "values"),
        (b'"' + rb"\"," * 1_000_000, "not valid JSON"),  # no string ends: each quote may begin one
        (b"{" + b"".join(b'"%d":0,' % i for i in range(90_000)) + b'"89999":0}', "'89999' occurs twice"),
    ],
)
def test_what_is_not_a_message_is_the_callers_fault(http: HTTPConnection, body: bytes, says: str) -> None:
    code, _, answer = post(http, CLASSIFY, body)
    assert code == 400
    assert says in json.loads(answer)["message"]


def test_a_long_text_of_commas_is_no_large_message(http: HTTPConnection) -> None:
    text = "a, " * 40_000
    code, _, answer = post(http, "/lectern.v1.ClassifyService/ClassifyText", {"texts": [text], "model": "nothing"})
    assert (code, json.loads(answer)["code"]) == (404, code_pb2.NOT_FOUND)


def test_every_error_of_the_server_has_googles_http_code() -> None:
    assert {error.code for error in ServiceError.__subclasses__()} <= HTTP_CODES.keys() == set(code_pb2.Code.values())


@pytest.mark.parametrize(
    ("method", "path", "code", "status"),
    [
        ("GET", CLASSIFY, 405, code_pb2.UNIMPLEMENTED),
        ("POST", "/lectern.v1.ClassifyService/Nothing", 404, code_pb2.NOT_FOUND),
        ("GET", "/lectern.v1.ClassifyService/Nothing", 404, code_pb2.NOT_FOUND),
        ("GET", "/../../../etc/passwd", 404, code_pb2.NOT_FOUND),
        ("GET", "/%2e%2e/%2e%2e/settings.py", 404, code_pb2.NOT_FOUND),
    ],
)
def test_what_is_not_served_is_a_status(http: HTTPConnection, method: str, path: str, code: int, status: int) -> None:
    http.request(method, path)
    response = http.getresponse()
    assert (response.status, json.loads(response.read())["code"]) == (code, status)


def test_a_misspelt_method_is_told_the_one_that_was_meant(http: HTTPConnection) -> None:
    http.request("POST", CLASSIFY.replace("Image", "Imagge"))
    assert f"(did you mean '{CLASSIFY}'?)" in json.loads(http.getresponse().read())["message"]


@pytest.mark.parametrize(("path", "allowed"), [(CLASSIFY, "POST"), ("/v2/health/live", "GET")])
def test_a_wrong_method_is_told_the_right_one(http: HTTPConnection, path: str, allowed: str) -> None:
    http.request("PUT", path)
    response = http.getresponse()
    assert response.read()
    assert response.headers["allow"] == allowed


def test_forms_are_no_json(http: HTTPConnection) -> None:
    code, _, body = post(http, MODELS, b"{}", content_type="text/plain")
    assert code == 415
    assert "send application/json" in json.loads(body)["message"]


def test_a_request_id_is_taken_and_returned(http: HTTPConnection, server: Server) -> None:
    code, headers, _ = post(http, CLASSIFY, {"images": ["AAAA"]}, x_request_id="over-http")
    assert (code, headers["x-request-id"]) == (400, "over-http")
    (record,) = (r for r in server.log_records() if r.get("request_id") == "over-http")
    assert (record["rpc"], record["code"]) == (CLASSIFY[1:], "INVALID_ARGUMENT")
    assert str(record["peer"]).startswith("ipv4:127.0.0.1:")


def test_calls_are_counted_with_those_over_grpc(http: HTTPConnection, server: Server) -> None:
    line = 'grpc_server_handled_total{grpc_code="OK",grpc_method="ListModels"'

    def counted() -> float:
        with urlopen(f"{server.metrics_url}/metrics", timeout=WAIT) as response:
            return sum(float(x.rpartition(" ")[2]) for x in response.read().decode().splitlines() if line in x)

    before = counted()
    for _ in range(3):
        assert post(http, MODELS)[0] == 200
    assert counted() == before + 3


def test_a_stream_is_a_message_a_line(http: HTTPConnection) -> None:
    code, headers, body = post(http, EPISODE, {"seed": 5, "maxSteps": 3})
    assert (code, headers["content-type"]) == (200, "application/json")
    assert [json.loads(line)["step"] for line in body.splitlines()] == [1, 2, 3]


def test_curl_reads_a_poem_as_server_sent_events(server: Server) -> None:
    url = f"{server.http_url}/lectern.v1.GenerateService/GenerateText"
    request = json.dumps({"prompt": "春眠", "seed": 3})
    command = ["curl", "--no-buffer", "--silent", "--json", request, "--header", "accept: text/event-stream", url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True).stdout
    events = shown.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    messages = [json.loads(event.removeprefix("data: ")) for event in events]
    with Client(server.target, timeout=WAIT) as client:
        expected = "".join(message.text for message in client.generate_text("春眠", seed=3))
    assert "".join(message.get("text", "") for message in messages) == expected


def test_a_stream_that_cannot_begin_has_the_code_of_its_error(http: HTTPConnection) -> None:
    code, headers, body = post(http, EPISODE, {"model": "nothing"}, accept="text/event-stream")
    assert (code, headers["content-type"]) == (404, "application/json")
    assert json.loads(body)["code"] == code_pb2.NOT_FOUND


def test_a_stream_of_requests_is_a_message_a_line(http: HTTPConnection, photos: np.ndarray) -> None:
    lines = [json.dumps({"images": [picture(photos, i)], "topK": 1}) for i in range(5)]
    path = "/lectern.v1.ClassifyService/StreamClassifyImage"
    code, _, body = post(http, path, "\n".join(lines).encode(), content_type="application/x-ndjson")
    assert code == 200
    answers = [json.loads(line) for line in body.splitlines()]
    assert len(answers) == 5
    assert all(answer["results"][0]["classes"][0]["label"] for answer in answers)
    code, _, body = post(http, path, b"nothing\n", content_type="application/x-ndjson")
    assert (code, json.loads(body)["code"]) == (400, code_pb2.INVALID_ARGUMENT)


def test_a_stream_that_fails_on_its_way_ends_with_the_error(http: HTTPConnection, photos: np.ndarray) -> None:
    good, bad = json.dumps({"images": [picture(photos)]}), json.dumps({"images": ["AAAA"]})
    path = "/lectern.v1.ClassifyService/StreamClassifyImage"
    body = f"{good}\n{bad}\n".encode()
    code, _, answer = post(http, path, body, content_type="application/x-ndjson")
    first, last = map(json.loads, answer.splitlines())
    assert (code, len(first["results"])) == (200, 1)
    assert last["error"]["code"] == code_pb2.INVALID_ARGUMENT
    _, _, answer = post(http, path, body, content_type="application/x-ndjson", accept="text/event-stream")
    *_, event, data, _, _ = answer.decode().split("\n")
    assert event == "event: error"
    assert json.loads(data.removeprefix("data: "))["code"] == code_pb2.INVALID_ARGUMENT
