"""A client that shows on a terminal how long it has waited for an answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Timer
from typing import TypeVar

from google.protobuf.message import Message
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

from lectern.client import Client

R = TypeVar("R", bound=Message)

PATIENCE = 1.0  # seconds; what answers faster shows nothing


class WaitingClient(Client):
    """Shows the time that each call takes, and each answer of a stream."""

    def _call(self, request: Message, response: type[R], timeout: float | None) -> R:
        with self._shown(timeout):
            return super()._call(request, response, timeout)

    def _stream(self, request: Message, response: type[R], timeout: float | None) -> Iterator[R]:
        answers = super()._stream(request, response, timeout)
        try:
            while True:
                with self._shown(timeout):
                    answer = next(answers, None)
                if answer is None:
                    return
                yield answer
        finally:
            answers.close()  # type: ignore[attr-defined]  # it is a generator, which ends the call

    def _shown(self, timeout: float | None) -> AbstractContextManager[None]:
        """The time that a block takes, on a terminal."""
        console = Console(stderr=True)
        if not (console.is_interactive and sys.stdout.isatty()):
            return nullcontext()
        return elapsed(console, self.timeout if timeout is None else timeout)


@contextmanager
def elapsed(console: Console, limit: float) -> Iterator[None]:
    """The time since the call was made, of `limit` seconds, while the block lasts."""
    columns = (SpinnerColumn(), "waiting for the answer", TimeElapsedColumn(), f"of at most {limit:g} s")
    progress = Progress(*columns, console=console, transient=True)
    progress.add_task("")
    timer = Timer(PATIENCE, progress.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        progress.stop()
