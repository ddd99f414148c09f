"""Where the time of an RPC goes, measured once: for its log line and, with tracing on, for OpenTelemetry spans.

The server opens a `Trace` for each RPC. What works for that RPC, in its task or in tasks started from it, records there
without knowing of RPCs. Nothing of OpenTelemetry is imported here: with tracing on, `services.server.spans` puts its
own kind of `Trace` in place of the one that only keeps times.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
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
        fields: what the log says of it: `STAGE_seconds`, summed over all that was recorded, and `batch_size`.
    """

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: dict[str, float] = {}

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
        field = f"{stage}_seconds"
        self.fields[field] = self.fields.get(field, 0.0) + seconds

    def span(
        self, name: str, attributes: Attributes | None = None, *, client: bool = False
    ) -> AbstractContextManager[None]:
        """Put what is recorded in a `with` block under a span of its own.

        Args:
            client: the block calls another server; `current().headers()` tells that server of this span.
        """
        return _NOTHING

    def messages(self, responses: AsyncIterator[Response]) -> AsyncIterator[Response]:
        """The same responses, each made under a span of its own."""
        return responses

    def headers(self) -> tuple[tuple[str, str], ...]:
        """W3C trace context for a server that is called."""
        return ()

    def ids(self) -> Mapping[str, str]:
        """`trace_id` and `span_id`, for the log."""
        return {}

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
