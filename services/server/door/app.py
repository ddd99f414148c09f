"""The ASGI application of the door: RPCs by their paths, pages by routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from lectern.names import meant
from services.errors import Internal, NotFound, ServiceError, Unavailable
from services.rpc import PRIORITY, REQUEST_ID
from services.server.door import pages, reference
from services.server.door.calls import Calls
from services.server.door.exchange import TIMEOUT, Exchange
from services.server.door.guard import Guard
from services.server.door.inference import Inference
from services.server.door.ui import Page
from services.server.pipeline import Endpoint
from services.server.settings import Settings

SENT_BY_PAGES = ("authorization", "content-type", TIMEOUT, PRIORITY, REQUEST_ID)
READ_BY_PAGES = (REQUEST_ID, "retry-after")
LONGEST_NAME = 100  # of a path that is compared with those of methods

log = logging.getLogger(__name__)


def application(settings: Settings, endpoints: Mapping[str, Endpoint]) -> ASGIApp:
    """The whole application; `endpoints` by path, `/package.Service/Method`."""
    app: ASGIApp = _Application(settings, endpoints)
    if settings.http_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.http_origins,
            allow_methods=("GET", "POST"),
            allow_headers=SENT_BY_PAGES,
            expose_headers=READ_BY_PAGES,
        )
    return app


class _Application:
    def __init__(self, settings: Settings, endpoints: Mapping[str, Endpoint]) -> None:
        self._reference = Router(reference.routes(endpoints))
        self._settings, self._guard = settings, Guard(settings)
        self._calls, self._inference = Calls(settings, endpoints), Inference(settings, endpoints)
        self._paths = tuple(endpoints)
        self._page = Page(settings, (endpoint.method.service for endpoint in endpoints.values()))
        self._pages = Router(pages.routes(self._page))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._settings)
        exchange.connection.call = own = asyncio.current_task()
        try:
            await self._answer(exchange, scope, receive)
        except asyncio.CancelledError:  # nobody waits for this task
            if not exchange.connection.lost and not exchange.began:
                await exchange.reply_error(Unavailable("the server stops"))
            elif not exchange.connection.lost:
                exchange.connection.transport.abort()
        except Exception as error:
            if not isinstance(error, ServiceError):
                log.exception("a request to %s failed", exchange.path, extra={"request_id": exchange.request_id})
            if exchange.began:
                exchange.connection.transport.abort()
            else:
                await exchange.reply_error(_to_service_error(error, exchange))
        finally:
            if exchange.connection.call is own:  # and not that of the next request, which the response let begin
                exchange.connection.call = None

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        exchange.check_form()
        self._guard.check(exchange.headers, scope["scheme"])
        if exchange.is_inference:
            await self._inference.answer(exchange)
            return
        if endpoint := self._calls.endpoint(exchange.path):
            if self._page.calls(exchange.headers):
                self._guard.check_name(exchange.headers, scope["scheme"])
                exchange.headers = self._page.authorised(exchange.headers)
            await self._calls.answer(exchange, endpoint)
            return
        try:
            # Starlette raises, and does not answer, if it finds itself in another application.
            router = self._reference if reference.is_path(exchange.path) else self._pages
            await router({**scope, "app": self}, receive, exchange.send)
        except HTTPException:
            near = meant(exchange.path, self._paths) if len(exchange.path) <= LONGEST_NAME else ""
            raise NotFound(f"no such method or page: {exchange.path}{near}") from None


def _to_service_error(error: Exception, exchange: Exchange) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    return Internal(f"internal error; the server's log has the cause under request id {exchange.request_id}")
