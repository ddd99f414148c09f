"""How the clients make calls: connection, deadlines, streams, and failures as `LecternError`.

`AsyncCalls` and `Calls` do the same for asyncio and for threads. Only these two classes are written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from lectern.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT, TLS, call_metadata, channel_options, check_target
from lectern.errors import LecternError

T = TypeVar("T")
R = TypeVar("R", bound=Message)


class _Connection:
    """What both clients know about a server; arguments as of `lectern.Client`."""

    _api: Any  # grpc or grpc.aio

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: TLS | None = None,
        token: str | None = None,
        wait_for_ready: bool = False,
        priority: int = 0,
    ) -> None:
        check_target(target)
        self.target, self.timeout = target, timeout
        self._token, self._wait_for_ready, self._priority = token, wait_for_ready, priority
        self._options, self._credentials = channel_options(tls), tls.credentials() if tls else None
        self._methods: dict[type[Message], Callable[..., Any]] = {}
        # A channel of asyncio belongs to an event loop, so the first call opens it.
        self._channel: Any = None if self._api is grpc.aio else self._open()

    def _open(self) -> Any:
        if self._credentials is None:
            return self._api.insecure_channel(self.target, self._options)
        return self._api.secure_channel(self.target, self._credentials, self._options)

    def _method(self, channel: Any, request: type[Message], response: type[Message]) -> Callable[..., Any]:
        """What calls the RPC that takes `request`."""
        if request not in self._methods:
            rpc = _rpc_of(request.DESCRIPTOR)
            kinds = ["stream" if streams else "unary" for streams in (rpc.client_streaming, rpc.server_streaming)]
            path = f"/{rpc.containing_service.full_name}/{rpc.name}"
            make = getattr(channel, "_".join(kinds))
            self._methods[request] = make(path, request.SerializeToString, response.FromString)
        return self._methods[request]

    def _settings(self, timeout: float | None) -> dict[str, Any]:
        seconds = self.timeout if timeout is None else timeout
        metadata = call_metadata(self._token, self._priority)
        return {"timeout": seconds, "metadata": metadata, "wait_for_ready": self._wait_for_ready}


class Calls(_Connection):
    """A connection for threads."""

    _api = grpc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End calls under way and close the connection."""
        self._channel.close()

    def _call(self, request: Message, response: type[R], timeout: float | None) -> R:
        method = self._method(self._channel, type(request), response)
        try:
            answer: R = method(request, **self._settings(timeout))
        except grpc.RpcError as error:
            raise LecternError.of(error) from error
        return answer

    def _stream(self, request: Message, response: type[R], timeout: float | None) -> Iterator[R]:
        return self._responses(type(request), request, response, timeout)

    def _pipeline(
        self,
        build: Callable[[T], Message],
        items: Iterable[T],
        request: type[Message],
        response: type[R],
        timeout: float | None,
    ) -> Iterator[R]:
        """Send `build(item)` for each item, from another thread; yield the responses.

        An error from `items` or `build` ends the requests, and is raised after the last response.
        """
        errors: list[Exception] = []

        def requests() -> Iterator[Message]:
            try:
                yield from map(build, items)
            except Exception as error:
                errors.append(error)

        yield from self._responses(request, requests(), response, timeout)
        if errors:
            raise errors[0]

    def _responses(self, request: type[Message], content: Any, response: type[R], timeout: float | None) -> Iterator[R]:
        call = self._method(self._channel, request, response)(content, **self._settings(timeout))
        try:
            yield from call
        except grpc.RpcError as error:
            raise LecternError.of(error) from error
        finally:
            call.cancel()  # a caller that stops early also stops the server's work


class AsyncCalls(_Connection):
    """A connection for asyncio, which belongs to the event loop of its first call."""

    _api = grpc.aio
    _loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End calls under way and close the connection."""
        if self._channel is not None:
            await self._opened().close()

    def _opened(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel, self._loop = self._open(), loop
        elif self._loop is not loop:
            raise RuntimeError("this lectern.aio.Client made its calls in another event loop: make one for each loop")
        return self._channel

    async def _call(self, request: Message, response: type[R], timeout: float | None) -> R:
        method = self._method(self._opened(), type(request), response)
        try:
            answer: R = await method(request, **self._settings(timeout))
        except grpc.RpcError as error:
            raise LecternError.of(error) from error
        return answer

    def _stream(self, request: Message, response: type[R], timeout: float | None) -> AsyncIterator[R]:
        return self._responses(type(request), request, response, timeout)

    async def _pipeline(
        self,
        build: Callable[[T], Message],
        items: Iterable[T] | AsyncIterable[T],
        request: type[Message],
        response: type[R],
        timeout: float | None,
    ) -> AsyncIterator[R]:
        """Send `build(item)` for each item, built in another thread; yield the responses.

        An error from `items` or `build` ends the requests, and is raised after the last response.
        """
        errors: list[Exception] = []

        async def requests() -> AsyncIterator[Message]:
            try:
                async for item in _each(items):
                    yield await asyncio.to_thread(build, item)
            except Exception as error:
                errors.append(error)

        async for answer in self._responses(request, requests(), response, timeout):
            yield answer
        if errors:
            raise errors[0]

    async def _responses(
        self, request: type[Message], content: Any, response: type[R], timeout: float | None
    ) -> AsyncIterator[R]:
        call = self._method(self._opened(), request, response)(content, **self._settings(timeout))
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as error:
            raise LecternError.of(error) from error
        finally:
            call.cancel()  # a caller that stops early also stops the server's work


def _rpc_of(request: Any) -> Any:
    """The descriptor of the RPC that takes a message: by the contract each RPC has its own request."""
    services = request.file.services_by_name.values()
    return next(rpc for service in services for rpc in service.methods if rpc.input_type is request)


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
