"""The OpenAPI document of HTTP and the page that shows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from http.client import HTTPConnection
from urllib.request import urlopen

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import validate

from services.server.capabilities import CAPABILITIES
from services.server.door.reference import DOCUMENT, FILES
from tests.conftest import ROOT, Server
from tests.programs import needs
from tests.server.test_http import CLASSIFY, connect, picture, post
from tests.waiting import WAIT


@pytest.fixture(scope="module")
def served(server: Server) -> dict[str, object]:
    with urlopen(f"{server.http_url}/openapi.json", timeout=WAIT) as response:
        return dict(json.load(response))


@pytest.mark.unit
def test_the_document_is_current_and_valid() -> None:
    script = ROOT / "scripts" / "openapi.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stdout + done.stderr
    validate(json.loads(DOCUMENT.read_text()))


@pytest.mark.unit
def test_every_rpc_and_its_comments_are_in_the_document() -> None:
    paths = json.loads(DOCUMENT.read_text())["paths"]
    for capability in CAPABILITIES.values():
        for method in capability.service.methods:
            operation = paths[f"/{capability.service.full_name}/{method.name}"]["post"]
            assert operation["summary"]
            assert operation["description"]


def test_a_server_shows_what_it_serves(served: dict[str, object]) -> None:
    validate(served)  # type: ignore[arg-type]
    paths = served["paths"]
    assert isinstance(paths, dict)
    assert CLASSIFY in paths
    assert "/v2/models/{name}/infer" in paths


def test_every_documented_path_is_served(server: Server, served: dict[str, object]) -> None:
    connection = connect(server)
    paths = served["paths"]
    assert isinstance(paths, dict)
    for path, item in paths.items():
        (method,) = item
        connection.request(method.upper(), re.sub(r"\{\w+\}", "nothing", path), b"", {"content-type": "text/plain"})
        response = connection.getresponse()
        body = response.read()
        assert b"no such" not in body, path
        assert response.status != 405, path
    connection.close()


def test_an_answer_is_as_documented(server: Server, served: dict[str, object], photos: np.ndarray) -> None:
    connection = connect(server)
    _, _, body = post(connection, CLASSIFY, {"images": [picture(photos)]})
    connection.close()
    root = {"$ref": "#/components/schemas/ClassifyImageResponse", "components": served["components"]}
    jsonschema.Draft202012Validator(root).validate(json.loads(body))


def test_the_pages_files_are_the_servers_own(server: Server) -> None:
    connection = HTTPConnection(server.http_url.removeprefix("http://"), timeout=WAIT)
    for name in ("", "reference.js", "swagger-ui/swagger-ui-bundle.js", "swagger-ui/swagger-ui.css"):
        connection.request("GET", f"/docs/{name}")
        response = connection.getresponse()
        assert response.status == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        response.read()
    connection.close()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', (FILES / "index.html").read_text())


def test_chromium_shows_the_page_and_its_policy_is_kept(server: Server) -> None:
    needs("chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command = ["chromium", *options, "--virtual-time-budget=60000", f"{server.http_url}/docs/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
    assert "opblock-tag" in done.stdout
    assert "ClassifyService" in done.stdout
    # Whatever the page asked of another server, its policy would refuse, and Chromium would say so.
    assert "Content Security Policy" not in done.stderr
