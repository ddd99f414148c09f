"""The page for people at `/`: where it is on, what it has to know of the server, and the token of its calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse

from lectern.distribution import version
from services.server.auth import EVERYTHING, MODEL_CONTROL, TokenFile
from services.server.settings import Settings, StartError
from services.server.watched import read_file, warn_if_readable_by_all

FILES = Path(__file__).parents[2] / "ui"
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
SAME_ORIGIN = "same-origin"
TOO_MUCH = (EVERYTHING, MODEL_CONTROL)  # scopes that whoever can open the page must not get


class Page:
    """The page's side of the server.

    Args:
        services: full names of the services that are served.

    Attributes:
        is_on: whether it is served.

    Raises:
        StartError: it is asked for where its calls would have no token, or the token may do too much.
    """

    def __init__(self, settings: Settings, services: Iterable[str]) -> None:
        if settings.ui and settings.tokens and not settings.ui_token_file:
            raise StartError("--ui with --tokens: name a file with a token for the page's calls, --ui-token-file")
        self.is_on = settings.serves_page
        self._token = _token(settings) if self.is_on else ""
        self._about = {"version": version(), "services": sorted(set(services)), "attacks": settings.allow_attacks}

    async def tell(self, _: Request) -> JSONResponse:
        """What the page has to know: {version, services, attacks}."""
        return JSONResponse(self._about)

    def calls(self, headers: Mapping[str, str]) -> bool:
        """Whether a browser says that a page of this server makes the call, which needs the page's token."""
        return bool(self._token) and "authorization" not in headers and headers.get("sec-fetch-site") == SAME_ORIGIN

    def authorised(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of a call of the page, with its token.

        So the token never leaves the server. Whoever can open the page can make the same calls.
        """
        return {**headers, "authorization": f"Bearer {self._token}"}


def _token(settings: Settings) -> str:
    """The token of the page's calls; empty if they need none.

    Raises:
        StartError: its file cannot be read, or the token is unknown or may call everything.
    """
    path = settings.ui_token_file
    if path is None:
        return ""
    if settings.tokens is None:
        raise StartError("LECTERN_UI_TOKEN_FILE: the server asks for no tokens: name their file too, --tokens")
    token = read_file(path, "LECTERN_UI_TOKEN_FILE").decode(errors="replace").strip()
    warn_if_readable_by_all(path, "the token of the page")
    digest = hashlib.sha256(token.encode()).hexdigest()
    entry = next((entry for entry in TokenFile.read(settings.tokens).tokens if entry.sha256 == digest), None)
    if entry is None:
        raise StartError(f"LECTERN_UI_TOKEN_FILE: the token in {path} is not one of {settings.tokens}")
    if too_much := sorted(set(entry.scopes) & set(TOO_MUCH)):
        raise StartError(
            f"LECTERN_UI_TOKEN_FILE: the token {entry.name!r} has the scope {too_much[0]}, which everyone who opens "
            "the page would get: create one with --scope for each capability that the page may call, and models"
        )
    return token
