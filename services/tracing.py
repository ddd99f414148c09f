"""The `Trace` of an RPC: how long each stage took, for its log line and, with tracing on, for OpenTelemetry spans.

The server opens a `Trace` for each RPC. Code that works for that RPC, in its task or in tasks started from it, records
stages in the current trace and needs to know nothing of RPCs. This file imports nothing of OpenTelemetry: with tracing
on, `services.server.otel_spans` opens traces that export spans instead of traces that only keep times.
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
    """The stages of one RPC, or of one message of its stream.

    Attributes:
        exports: whether attributes are exported; if not, callers need not compute them.
        trace_id: of the trace that is exported; empty = none is.
        seconds: total by stage.
        batch_size: items of the last run.
    """

    __slots__ = ("batch_size", "seconds")
    exports = False
    trace_id = ""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.batch_size = 0

    def record(
        self, name: str, start: float, end: float, attributes: Attributes | None = None, *, stage: str = ""
    ) -> None:
        """Record a stage that has ended.

        Args:
            start, end: in `time.monotonic()` seconds.
            stage: its name in the log; `name` if empty.
        """
        self.add(stage or name, end - start)

    def add(self, stage: str, seconds: float) -> None:
        """Add time for the log only."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def span(
        self, name: str, attributes: Attributes | None = None, *, client: bool = False
    ) -> AbstractContextManager[None]:
        """Put the stages recorded in a `with` block under a span of their own.

        Args:
            client: the block calls another server, which learns of the span from `current().headers()`.
        """
        return _NOTHING

    def messages(self, responses: AsyncGenerator[Response, None]) -> AsyncGenerator[Response, None]:
        """The same responses, each produced under a span of its own."""
        return responses

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The W3C trace context for a call to another server."""
        return ()

    def fields(self) -> dict[str, str | float]:
        """Fields for the log line."""
        fields: dict[str, str | float] = {f"{stage}_seconds": round(s, 6) for stage, s in self.seconds.items()}
        return fields | ({"batch_size": self.batch_size} if self.batch_size else {})

    def end(self, call: Call, code: int, message: str) -> None:
        """Note that the RPC ended with this status."""


def _without_spans(call: Call) -> Trace:
    return Trace()


_open: Callable[[Call], Trace] = _without_spans
# Work outside of any RPC is recorded in a trace that nobody reads.
_current: ContextVar[Trace] = ContextVar("trace", default=Trace())  # noqa: B039


def use(opener: Callable[[Call], Trace]) -> None:
    """Open traces with `opener` from now on."""
    global _open
    _open = opener


def records_calls() -> bool:
    """Whether each RPC is recorded, and not only timed for the log."""
    return _open is not _without_spans


def begin(call: Call) -> Trace:
    """Open the trace of an RPC; it is `current` in this task and in tasks started from it."""
    trace = _open(call)
    _current.set(trace)
    return trace


current = _current.get
"""The trace of the RPC for which this task works."""

enter, leave = _current.set, _current.reset
