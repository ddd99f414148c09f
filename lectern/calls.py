"""How clients make calls: their connection, deadlines, streams, and failures as `LecternError`."""

# ruff: noqa: ASYNC109 (`timeout` is the deadline that gRPC sends to the server)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from lectern.channel import TLS, call_metadata, channel_options, check_target
from lectern.errors import LecternError

T = TypeVar("T")


class _Connection:
    """A channel, and what every call over it has in common; arguments as of `lectern.Client`."""

    _channels: Any  # the module that makes channels

    def __init__(
        self, target: str, timeout: float, tls: TLS | None, token: str | None, wait_for_ready: bool, priority: int
    ) -> None:
        check_target(target)
        self.target, self.timeout = target, timeout
        self._token, self._wait_for_ready, self._priority = token, wait_for_ready, priority
        self._channel: Any = self._opened(target, channel_options(tls), tls.credentials() if tls else None)

    def _opened(self, target: str, options: Any, credentials: grpc.ChannelCredentials | None) -> Any:
        if credentials is None:
            return self._channels.insecure_channel(target, options)
        return self._channels.secure_channel(target, credentials, options)

    def _settings(self, timeout: float | None) -> dict[str, Any]:
        seconds = self.timeout if timeout is None else timeout
        metadata = call_metadata(self._token, self._priority)
        return {"timeout": seconds, "metadata": metadata, "wait_for_ready": self._wait_for_ready}


class Calls(_Connection):
    """A connection."""

    _channels = grpc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End calls under way and close the connection."""
        self._channel.close()

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        try:
            return method(request, **self._settings(timeout))
        except grpc.RpcError as error:
            raise LecternError.of(error) from error

    def _pipelined(self, method: Callable[..., Any], messages: Iterable[Any], timeout: float | None) -> Iterator[Any]:
        """Send `messages` from another thread and yield the responses; what reading `messages` raises comes last."""
        failures: list[Exception] = []

        def outgoing() -> Iterator[Any]:
            try:
                yield from messages
            except Exception as error:
                failures.append(error)

        yield from self._stream(method, outgoing(), timeout)
        if failures:
            raise failures[0]

    def _stream(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Iterator[Any]:
        call = method(request, **self._settings(timeout))
        try:
            yield from call
        except grpc.RpcError as error:
            raise LecternError.of(error) from error
        finally:
            call.cancel()  # a caller that stops early stops the server's work too


class _LaterChannel:
    """A channel of asyncio that is opened by its first call, since it belongs to the loop that runs then."""

    def __init__(self, opened: Callable[[], grpc.aio.Channel]) -> None:
        self._opened = opened
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __getattr__(self, kind: str) -> Callable[..., Callable[..., Any]]:
        """`unary_unary` and its like, as stubs ask for them."""

        def method(*arguments: Any, **settings: Any) -> Callable[..., Any]:
            made: list[Callable[..., Any]] = []

            def call(*request: Any, **of_call: Any) -> Any:
                channel = self._here()
                if not made:
                    made.append(getattr(channel, kind)(*arguments, **settings))
                return made[0](*request, **of_call)

            return call

        return method

    def _here(self) -> grpc.aio.Channel:
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel, self._loop = self._opened(), loop
        elif self._loop is not loop:
            raise RuntimeError("this lectern.aio.Client made its calls in another event loop: make one for each loop")
        return self._channel

    async def close(self) -> None:
        if self._channel is not None:
            await self._here().close()


class AsyncCalls(_Connection):
    """A connection for asyncio."""

    _channels = grpc.aio

    def _opened(self, target: str, options: Any, credentials: grpc.ChannelCredentials | None) -> Any:
        return _LaterChannel(partial(super()._opened, target, options, credentials))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End calls under way and close the connection."""
        await self._channel.close()

    async def _call(self, method: Callable[..., Any], request: Any, timeout: float | None) -> Any:
        try:
            return await method(request, **self._settings(timeout))
        except grpc.RpcError as error:
            raise LecternError.of(error) from error

    async def _pipelined(
        self,
        method: Callable[..., Any],
        message: Callable[[T], Any],
        batches: Iterable[T] | AsyncIterable[T],
        timeout: float | None,
    ) -> AsyncIterator[Any]:
        """Send `message(batch)` of each batch and yield the responses; what reading `batches` raises comes last."""
        failures: list[Exception] = []

        async def outgoing() -> AsyncIterator[Any]:
            try:
                async for batch in _each(batches):
                    yield await asyncio.to_thread(message, batch)
            except Exception as error:
                failures.append(error)

        async for response in self._stream(method, outgoing(), timeout):
            yield response
        if failures:
            raise failures[0]

    async def _stream(self, method: Callable[..., Any], request: Any, timeout: float | None) -> AsyncIterator[Any]:
        call = method(request, **self._settings(timeout))
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise LecternError.of(error) from error
        finally:
            call.cancel()  # a caller that stops early stops the server's work too


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
