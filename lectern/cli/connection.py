"""How commands talk to a server: the options for it, its errors as messages, and inputs that need several requests."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, TypeVar

import typer

from lectern.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT, TLS
from lectern.cli.files import as_text
from lectern.cli.output import WRONG_USAGE, fail

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.errors import LecternError

P = TypeVar("P")
T = TypeVar("T")


_PANEL = "Server"
_Pem: TypeAlias = Path | None

_HOMEWORK = re.compile(r"'HW *0*(\d+)'", re.IGNORECASE)
_HINTS = {
    "DEADLINE_EXCEEDED": "give it more time with --timeout",
    "NOT_FOUND": "`lectern models` lists what the server has",
    "UNAUTHENTICATED": "give a token with --token or LECTERN_TOKEN",
}


def _pem_option(text: str) -> Any:
    return typer.Option(exists=True, dir_okay=False, metavar="FILE", help=text, rich_help_panel=_PANEL)


@dataclass(frozen=True)
class Connection:
    """How to reach the server; each field is an option."""

    target: Annotated[
        str,
        typer.Option(
            envvar="LECTERN_TARGET", metavar="HOST:PORT", help="Address of the server.", rich_help_panel=_PANEL
        ),
    ] = DEFAULT_TARGET
    timeout: Annotated[
        float,
        typer.Option(
            envvar="LECTERN_TIMEOUT",
            min=0.001,
            metavar="SECONDS",
            help="Longest time for an answer.",
            rich_help_panel=_PANEL,
        ),
    ] = DEFAULT_TIMEOUT
    tls_ca: Annotated[_Pem, _pem_option("Use TLS, and trust servers that these certificates sign.")] = None
    tls_cert: Annotated[_Pem, _pem_option("Use TLS, with this client certificate.")] = None
    tls_key: Annotated[_Pem, _pem_option("The key of --tls-cert.")] = None
    token: Annotated[
        str | None,
        typer.Option(envvar="LECTERN_TOKEN", metavar="TOKEN", help="Bearer token to send.", rich_help_panel=_PANEL),
    ] = field(default=None, repr=False)
    shows_waiting: ClassVar[bool] = True

    @contextmanager
    def client(self, *, quiet: bool = False) -> Iterator[Client]:
        """A connected client; a failed call inside ends the command with a message.

        Args:
            quiet: do not show on a terminal how long answers take; for what shows its own progress.

        Raises:
            typer.Exit: a call failed, or the TLS options do not fit together.
        """
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log lines repeat our message
        from lectern.cli.waiting import WaitingClient
        from lectern.client import Client
        from lectern.errors import LecternError

        kind = WaitingClient if self.shows_waiting and not quiet else Client
        try:
            client = kind(self.target, timeout=self.timeout, tls=self._tls(), token=self.token)
        except ValueError as error:
            fail(f"--target: {error}", WRONG_USAGE)
        with client:
            try:
                yield client
            except LecternError as error:
                fail(self._message(error) + _models_of_homework(client, error))

    def _tls(self) -> TLS | None:
        if (self.tls_cert is None) != (self.tls_key is None):
            fail("--tls-cert and --tls-key go together", WRONG_USAGE)
        if self.tls_ca is None and self.tls_cert is None:
            return None
        return TLS(ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key)

    def _message(self, error: LecternError) -> str:
        code = error.code().name
        if code == "UNAVAILABLE" and not error.trailing_metadata():  # no server answered
            if "Connection refused" in error.details():
                where = self.target if ":" in self.target else f"{self.target}, which names no port"
                return f"no server at {where}: start one with `lectern serve`, or name another with --target"
            return f"cannot reach {self.target}: {error.details()}"
        if code == "DEADLINE_EXCEEDED" and not error.trailing_metadata():
            return f"no answer from {self.target} within {self.timeout:g} s: {_HINTS[code]}"
        parts = [error.details() or code]
        parts += [f"  {text}" for text in error.further_violations()]
        if error.retry_after is not None:
            parts.append(f"  the server expects to have capacity in {error.retry_after:g} s: try again then")
        if code in _HINTS:
            parts.append(f"  {_HINTS[code]}")
        if error.request_id and not error.violations and error.request_id not in error.details():
            parts.append(f"  request {error.request_id} in the server's log")
        return "\n".join(parts)


class _Quiet(Connection):
    """That of a command that prints JSON."""

    shows_waiting = False


def _models_of_homework(client: Client, error: LecternError) -> str:
    """The names of a homework's models, if the user named the homework instead of a model."""
    if error.code().name != "NOT_FOUND" or not (homework := _HOMEWORK.search(error.details())):
        return ""
    lecture = f"HW{int(homework[1])}"
    from lectern.errors import LecternError

    try:
        names = [model.name for model in client.list_models().models if model.lecture == lecture]
    except LecternError:  # a token may allow one and not the other
        return ""
    return f"\n  {lecture} has: {', '.join(names) or 'no model here'}"


def _as_texts(value: Any) -> Any:
    """One argument or several, as UTF-8 in any locale."""
    if isinstance(value, list):
        return [_as_texts(item) for item in value]
    return as_text(value) if isinstance(value, str) else value


def takes_connection(command: Callable[..., None], timeout: float) -> Callable[..., None]:
    """Replace the first parameter of `command(connection, ...)` by the options of `Connection`.

    Args:
        timeout: in seconds, where none is given.
    """
    shared = dict(inspect.signature(Connection, eval_str=True).parameters)
    shared["timeout"] = shared["timeout"].replace(default=timeout)
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared.values())]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        kind = _Quiet if arguments.get("as_json") else Connection
        connection = kind(**{name: arguments.pop(name) for name in shared})
        command(connection, **{name: _as_texts(value) for name, value in arguments.items()})

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads options from
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def in_requests(ask: Callable[[P, int], Any], parts: Iterable[P], version: int) -> Any:
    """One response with the results of several requests, in order.

    Args:
        ask: sends one request: `ask(part, version)`.
        parts: what each request is about; at least one.
        version: of the first request; the version that answers it also gets the others.
    """
    remaining = iter(parts)
    response = ask(next(remaining), version)
    for part in remaining:
        response.MergeFrom(ask(part, response.version))
    return response


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Parts of `size` items, the last with the rest; one empty part if there are no items."""
    return [items[start : start + size] for start in range(0, len(items) or 1, size)]
