"""Where the page is on, and the token of its calls, which never leaves the server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from services.server.settings import Settings
from tests.conftest import ROOT, serving
from tests.waiting import WAIT

MODELS = "/lectern.v1.ModelService/ListModels"
FROM_THE_PAGE = {"sec-fetch-site": "same-origin"}


def lectern(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lectern", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, cwd=ROOT)


def token(directory: Path, *scopes: str) -> tuple[Path, Path]:
    """The file of all tokens, and one with the page's token."""
    tokens, own = directory / "tokens.json", directory / "page.token"
    options = [option for scope in scopes for option in ("--scope", scope)]
    created = lectern("token", "create", "page", "--file", tokens, *options)
    assert created.returncode == 0, created.stderr
    own.write_text(next(word for word in created.stdout.split() if word.startswith("lectern_")))
    own.chmod(0o600)
    return tokens, own


def fetch(url: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        with urlopen(Request(url, data, sent), timeout=WAIT) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("settings", "on"),
    [
        ({}, True),
        ({"host": "0.0.0.0"}, False),  # noqa: S104
        ({"host": "0.0.0.0", "ui": True}, True),  # noqa: S104
        ({"ui": False}, False),
        ({"tokens": "tokens.json"}, False),
        ({"tokens": "tokens.json", "ui_token_file": "page.token"}, True),
        ({"tokens": "tokens.json", "ui_token_file": "page.token", "ui": False}, False),
    ],
)
def test_it_is_on_where_it_is_safe(settings: dict[str, object], on: bool) -> None:
    assert Settings(**settings).serves_page is on  # type: ignore[arg-type]


def test_with_tokens_it_is_off(tmp_path: Path) -> None:
    tokens, _ = token(tmp_path, "models")
    with serving(tmp_path, "predict", "--tokens", str(tokens)) as server:
        assert fetch(f"{server.http_url}/")[0] == 404
        assert fetch(f"{server.http_url}{MODELS}", {}, **FROM_THE_PAGE)[0] == 401


def test_calls_of_the_page_have_its_token_and_scopes(tmp_path: Path) -> None:
    tokens, own = token(tmp_path, "models", "predict")
    secret = own.read_text()
    with serving(tmp_path, "predict", "embed", "--tokens", str(tokens), "--ui-token-file", str(own)) as server:
        url = server.http_url
        assert fetch(f"{url}{MODELS}", {}, **FROM_THE_PAGE)[0] == 200
        assert fetch(f"{url}{MODELS}", {})[0] == 401, "not from the page"
        assert fetch(f"{url}{MODELS}", {}, sec_fetch_site="cross-site")[0] == 401
        assert fetch(f"{url}{MODELS}", {}, authorization="Bearer lectern_wrong", **FROM_THE_PAGE)[0] == 401
        nearest = {"positive": ["river"]}
        assert fetch(f"{url}/lectern.v1.EmbedService/Nearest", nearest, **FROM_THE_PAGE)[0] == 403, "another scope"
        foreign = {"origin": "http://evil.example.com", **FROM_THE_PAGE}
        assert fetch(f"{url}{MODELS}", {}, **foreign)[0] == 403
        assert fetch(f"{url}{MODELS}", {}, host="evil.example.com", **FROM_THE_PAGE)[0] == 403
        files = [path.relative_to(ROOT / "services" / "ui") for path in (ROOT / "services" / "ui").rglob("*.*")]
        for path in ("", "about.json", *map(str, files)):
            status, body = fetch(f"{url}/{path}")
            assert (status, secret.encode() in body) == (200, False), path
        log = server.log.read_text()
    assert secret not in log


def test_the_pages_token_is_for_no_strangers_name(tmp_path: Path) -> None:
    """Its owner may let it mean this server, and a browser then takes the owner's page for one of this server."""
    tokens, own = token(tmp_path, "models")
    options = ("--host", "0.0.0.0", "--tokens", str(tokens), "--ui-token-file", str(own))  # noqa: S104
    with serving(tmp_path, "predict", *options) as server:
        url = f"{server.http_url}{MODELS}"
        for host in ("127.0.0.1:8000", "[2001:db8::1]:8000", "localhost"):
            assert fetch(url, {}, host=host, **FROM_THE_PAGE)[0] == 200
        code, body = fetch(url, {}, host="evil.example.com", **FROM_THE_PAGE)
        assert (code, b"LECTERN_HTTP_HOSTS" in body) == (403, True)
        bearer = f"Bearer {own.read_text()}"
        assert fetch(url, {}, host="models.example.com", authorization=bearer, **FROM_THE_PAGE)[0] == 200
    with serving(tmp_path, "predict", *options, LECTERN_HTTP_HOSTS="Models.example.com") as server:
        url = f"{server.http_url}{MODELS}"
        assert fetch(url, {}, host="models.example.com:8000", **FROM_THE_PAGE)[0] == 200


def test_without_a_page_nobody_gets_its_token(tmp_path: Path) -> None:
    tokens, own = token(tmp_path, "models")
    with serving(tmp_path, "predict", "--no-ui", "--tokens", str(tokens), "--ui-token-file", str(own)) as server:
        assert fetch(f"{server.http_url}{MODELS}", {}, **FROM_THE_PAGE)[0] == 401


@pytest.mark.parametrize(
    ("scopes", "options", "says"),
    [
        (("*",), ("--tokens", "{tokens}", "--ui-token-file", "{own}"), "has the scope *"),
        (("models", "model_control"), ("--tokens", "{tokens}", "--ui-token-file", "{own}"), "scope model_control"),
        (("models",), ("--ui-token-file", "{own}"), "asks for no tokens"),
        (("models",), ("--tokens", "{tokens}", "--ui"), "--ui-token-file"),
        (("models",), ("--tokens", "{tokens}", "--ui-token-file", "{tokens}"), "is not one of"),
        (("models",), ("--tokens", "{tokens}", "--ui-token-file", "{own}.missing"), "cannot read"),
    ],
)
def test_what_would_be_unsafe_does_not_start(
    scopes: tuple[str, ...], options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    tokens, own = token(tmp_path, *scopes)
    filled = [option.format(tokens=tokens, own=own) for option in options]
    result = lectern("serve", "predict", "--port", "0", "--http-port", "0", "--metrics-port", "0", *filled)
    assert result.returncode != 0
    assert says in " ".join(result.stderr.split())
    assert own.read_text() not in result.stderr
