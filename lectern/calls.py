"""How `lectern.Client` makes calls: its connection, deadlines, streams, and failures as `LecternError`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from lectern.channel import TLS, call_metadata, channel_options
from lectern.errors import LecternError


class Calls:
    """A connection; arguments as of `lectern.Client`."""

    def __init__(
        self, target: str, timeout: float, tls: TLS | None, token: str | None, wait_for_ready: bool, priority: int
    ) -> None:
        self.target, self.timeout = target, timeout
        options = channel_options(tls)
        self._channel = (
            grpc.secure_channel(target, tls.credentials(), options) if tls else grpc.insecure_channel(target, options)
        )
        self._token, self._wait_for_ready, self._priority = token, wait_for_ready, priority

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

    def _settings(self, timeout: float | None) -> dict[str, Any]:
        seconds = self.timeout if timeout is None else timeout
        metadata = call_metadata(self._token, self._priority)
        return {"timeout": seconds, "metadata": metadata, "wait_for_ready": self._wait_for_ready}
