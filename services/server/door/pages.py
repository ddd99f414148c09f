"""What the door serves beside RPCs: the page for people with its files, where it is on."""

from __future__ import annotations

from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from services.server.door.ui import EXAMPLES, FILES, Page

# A page loads and calls nothing but this server, and runs no script that is not one of its files.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # asks whether a file has changed, so that a new server's page is whole
}


class _Files(StaticFiles):
    """Files with the headers of pages."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await super().__call__(scope, receive, with_headers)


def routes(page: Page) -> list[BaseRoute]:
    """Every route that is no RPC, the first that matches first."""
    if not page.is_on:
        return []
    return [
        Route("/about.json", page.tell),
        Mount("/examples", app=_Files(directory=EXAMPLES, check_dir=False), name="examples"),
        Mount("/", app=_Files(directory=FILES, html=True), name="page"),
    ]
