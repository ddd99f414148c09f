"""Where the time of an RPC goes, measured once: for its log line and, with tracing on, for OpenTelemetry spans.

The server opens a `Trace` for each RPC. What works for that RPC, in its task or in tasks started from it, records there
without knowing of RPCs. Nothing of OpenTelemetry is imported here: with tracing on, `services.server.spans` puts its
own kind of `Trace` in place of the one that only keeps times.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

from services.rpc import Call

Attributes = Mapping[str, str | int | float | bool]
Response = TypeVar("Response")

_NOTHING = nullcontext()


class Trace:
    """One RPC under way, or one message of its stream.

    Attributes:
        exports: whether the attributes of what is recorded go anywhere.
        seconds: by stage, summed over all that was recorded.
        batch_size: items of the last run.
    """

    __slots__ = ("batch_size", "seconds")
    exports = False

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.batch_size = 0

    def record(
        self, name: str, start: float, end: float, attributes: Attributes | None = None, *, stage: str = ""
    ) -> None:
        """Add something that is over.

        Args:
            start, end: in `time.monotonic()` seconds.
            stage: what the log calls it; the name if empty.
        """
        self.add(stage or name, end - start)

    def add(self, stage: str, seconds: float) -> None:
        """Count time for the log alone."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def span(
        self, name: str, attributes: Attributes | None = None, *, client: bool = False
    ) -> AbstractContextManager[None]:
        """Put what is recorded in a `with` block under a span of its own.

        Args:
            client: the block calls another server; `current().headers()` tells that server of this span.
        """
        return _NOTHING

    def messages(self, responses: AsyncGenerator[Response, None]) -> AsyncGenerator[Response, None]:
        """The same responses, each made under a span of its own."""
        return responses

    def headers(self) -> tuple[tuple[str, str], ...]:
        """W3C trace context for a server that is called."""
        return ()

    def fields(self) -> dict[str, str | float]:
        """What the log says of it."""
        fields: dict[str, str | float] = {f"{stage}_seconds": round(s, 6) for stage, s in self.seconds.items()}
        return fields | ({"batch_size": self.batch_size} if self.batch_size else {})

    def end(self, call: Call, code: int, message: str) -> None:
        """The RPC ended with this status."""


def _without_spans(call: Call) -> Trace:
    return Trace()


_open: Callable[[Call], Trace] = _without_spans
# What works outside of any RPC records into a trace that nobody reads.
_current: ContextVar[Trace] = ContextVar("trace", default=Trace())  # noqa: B039


def use(opener: Callable[[Call], Trace]) -> None:
    """Open traces with `opener` from now on."""
    global _open
    _open = opener


def begin(call: Call) -> Trace:
    """Open the trace of an RPC; it is `current` in this task and in those started from it."""
    trace = _open(call)
    _current.set(trace)
    return trace


current = _current.get
"""The trace that this task works for."""

enter, leave = _current.set, _current.reset
