"""The OpenAPI document at `/openapi.json`, and at `/docs/` a page to read and try it (Swagger UI, in `reference/`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from services.server.door.inference import ROUTES
from services.server.door.json_wire import dump
from services.server.door.replies import JSON_TYPE
from services.server.pipeline import Endpoint

DOCUMENT = Path(__file__).with_name("openapi.json")  # written by scripts/openapi.py
FILES = Path(__file__).with_name("reference")
PATHS = ("/openapi.json", "/docs")
# The page loads and calls nothing but this server. Swagger UI writes styles into the page.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def is_path(path: str) -> bool:
    """Whether one of `routes` may have it."""
    return path.startswith(PATHS)


def routes(endpoints: Mapping[str, Endpoint]) -> list[BaseRoute]:
    """The routes of the document of these endpoints, which are given by path, and of the page."""
    content = dump(document(endpoints))

    async def show(_: Request) -> Response:
        return Response(content, media_type=JSON_TYPE)

    return [Route(PATHS[0], show), Mount(PATHS[1], app=_Files(directory=FILES, html=True))]


def document(endpoints: Mapping[str, Endpoint]) -> dict[str, object]:
    """The OpenAPI document, without what this server does not serve."""
    whole = json.loads(DOCUMENT.read_bytes())
    served = {*endpoints, *(path for route in ROUTES for path in route.paths)}
    paths = {path: item for path, item in whole["paths"].items() if path in served}
    used = {tag for item in paths.values() for operation in item.values() for tag in operation["tags"]}
    return {**whole, "paths": paths, "tags": [tag for tag in whole["tags"] if tag["name"] in used]}


class _Files(StaticFiles):
    """Files with the headers of the page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await super().__call__(scope, receive, with_headers)
