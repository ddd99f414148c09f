"""Files as parts of forms over HTTP, as curl and browsers send them."""

from __future__ import annotations

import json
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2

from lectern import Client
from lectern.v1 import classify_pb2, explain_pb2
from services.errors import InvalidArgument
from services.server.door.forms import FormWire
from tests.conftest import ROOT, Server, encode
from tests.server.test_http import CLASSIFY
from tests.waiting import WAIT

BOUNDARY = "frontier"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


WIRE = FormWire(f"multipart/form-data; boundary={BOUNDARY}")


def curl(server: Server, path: str, *fields: str) -> tuple[int, dict[str, object]]:
    forms = [word for given in fields for word in ("--form", given)]
    command = ["curl", "--silent", "--write-out", "\n%{http_code}", *forms, server.http_url + path]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=True).stdout
    body, _, code = shown.rpartition("\n")
    return int(code), json.loads(body)


def test_curl_sends_files(server: Server, photos: np.ndarray, tmp_path: Path) -> None:
    files = []
    for i in range(2):
        (path := tmp_path / f"{i}.png").write_bytes(encode(photos[i]))
        files.append(f"images=@{path}")
    code, answer = curl(server, CLASSIFY, *files, "topK=2", "model=image_classifier")
    with Client(server.target, timeout=WAIT) as client:
        expected = client.classify_image([encode(photos[0]), encode(photos[1])], top_k=2)
    assert code == 200
    shown = [[c["label"] for c in r["classes"]] for r in answer["results"]]  # type: ignore[attr-defined]
    assert shown == [[c.label for c in result.classes] for result in expected.results]


def test_a_field_of_a_field_is_named_by_its_path(server: Server) -> None:
    examples = ROOT / "docs" / "examples"
    path = "/lectern.v1.ClassifyService/VerifySpeaker"
    code, answer = curl(
        server, path, f"first.encoded=@{examples}/armelle_1.wav", f"second.encoded=@{examples}/armelle_2.wav"
    )
    assert code == 200, answer
    assert answer["model"] == "speaker_classifier"


def test_a_part_that_is_no_field_is_named(server: Server) -> None:
    code, answer = curl(server, CLASSIFY, "picture=x")
    assert (code, answer["code"]) == (400, code_pb2.INVALID_ARGUMENT)
    assert "there are: images, model, top_k, version" in str(answer["message"])


@pytest.mark.unit
def test_parts_are_fields() -> None:
    body = form(
        part("clips", b"", filename=""),
        part("clips.encoded", b"one"),
        part("clips[1].encoded", b"two\r\n--frontie", filename="a.wav"),
        part("clips[1].encoded", b"three"),
        part("top_k", b"3"),
    )
    request = WIRE.parse(body, classify_pb2.ClassifyAudioRequest, 100)
    assert isinstance(request, classify_pb2.ClassifyAudioRequest)
    assert [clip.encoded for clip in request.clips] == [b"one", b"three"]
    assert request.top_k == 3


@pytest.mark.unit
def test_parts_of_other_types_are_json() -> None:
    body = form(part("pairs", b'{"premise": "a", "hypothesis": "b"}'), part("pairs.premise", "ü".encode()))
    request = WIRE.parse(body, classify_pb2.ClassifyPairRequest, 100)
    assert MessageToDict(request)["pairs"] == [{"premise": "a", "hypothesis": "b"}, {"premise": "ü"}]
    booleans = [f for f in explain_pb2.ExplainRequest.DESCRIPTOR.fields if f.type == f.TYPE_BOOL]
    for field in booleans:
        assert getattr(WIRE.parse(form(part(field.name, b"true")), explain_pb2.ExplainRequest, 9), field.name) is True


@pytest.mark.unit
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"nothing", "not a valid form"),
        (form(part("images", b"x"))[:-9], "not a valid form"),
        (form(part("", b"x")), "is not a field"),
        (form(part("images.x", b"x")), "is not a field"),
        (form(part("top_k", b"many")), "not an integer"),
        (form(part("model", b"\xff")), "is not UTF-8"),
        (form(part("a." * 60 + "a", b"x")), "is not a field"),
        (form(*[part("images", b"x")] * 12), "more than 10 parts"),
    ],
)
def test_wrong_forms_are_told_what_is_wrong(body: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        WIRE.parse(body, classify_pb2.ClassifyImageRequest, 10)


@pytest.mark.unit
def test_a_place_beyond_the_next_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="is place 7 of clips, which has 0 so far"):
        WIRE.parse(form(part("clips[7].encoded", b"x")), classify_pb2.ClassifyAudioRequest, 10)


@pytest.mark.unit
def test_a_form_without_a_boundary_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="boundary"):
        FormWire("multipart/form-data")


@pytest.mark.unit
def test_a_long_boundary_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="Boundary length 300"):
        FormWire(f"multipart/form-data; boundary={'b' * 300}").parse(b"", classify_pb2.ClassifyImageRequest, 10)


def test_a_browsers_form_reaches_no_other_site(server: Server) -> None:
    """A form of another site needs no leave of CORS, but says where it comes from."""
    connection = HTTPConnection(server.http_url.removeprefix("http://"), timeout=WAIT)
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", "origin": "https://evil.example.com"}
    connection.request("POST", CLASSIFY, form(part("model", b"x")), headers)
    assert connection.getresponse().status == 403
    connection.close()
