"""`lectern token`: the tokens of a server's clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lectern.cli.app import SERVE, app
from lectern.cli.output import WRONG_USAGE, fail, fail_for_missing, show

if TYPE_CHECKING:
    from services.server.auth import Token, TokenFile

token = typer.Typer(no_args_is_help=True)
app.add_typer(token, name="token", rich_help_panel=SERVE)

_File = Annotated[
    Path,
    typer.Option(envvar="LECTERN_TOKENS", dir_okay=False, metavar="FILE", help="The file of `lectern serve --tokens`."),
]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the client, as logs show it.", show_default=False)]


@token.callback()
def check_for_server() -> None:
    """Create, list and revoke the tokens of a server's clients."""
    try:
        import services.server.auth  # noqa: F401
    except ImportError as error:
        fail_for_missing("a server's tokens", error, "cpu")


@token.command()
def create(
    name: _Name,
    file: _File,
    scope: Annotated[
        list[str],
        typer.Option(
            help="What it may call: a capability such as classify, models, inference, model_control, or * for all.",
            show_default=False,
        ),
    ],
    days: Annotated[
        float | None, typer.Option(min=0, help="Days that it is valid.", show_default="until it is revoked")
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(min=0, help="0 = no limit.", show_default="the server's setting")
    ] = None,
    burst: Annotated[
        int | None, typer.Option(min=0, help="Requests at once after a pause.", show_default="the server's setting")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=0, help="RPCs at the same time; 0 = no limit.", show_default="the server's setting"),
    ] = None,
) -> None:
    """Create a token, print it once, and add its hash to the file. A running server accepts it within a second.

    \b
    lectern token create website --scope classify --file tokens.json
    lectern token create trial --scope '*' --days 7 --file tokens.json
    """
    from pydantic import ValidationError

    from services.server.auth import Token, TokenFile, new_token

    secret, sha256 = new_token()
    old = _read(file) if file.exists() else TokenFile()
    try:
        entry = Token(
            name=name,
            sha256=sha256,
            scopes=tuple(scope),
            expires=None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days),
            requests_per_second=requests_per_second,
            burst=burst,
            concurrency=concurrency,
        )
        new = TokenFile(tokens=(*old.tokens, entry))
    except ValidationError as error:
        fail("\n  ".join(e["msg"].removeprefix("Value error, ") for e in error.errors()), WRONG_USAGE)
    _write(new, file)
    typer.echo(f"{name} may call {', '.join(scope)}. This is the only time its token is shown:", err=True)
    typer.echo(secret)


@token.command(name="list")
def list_(file: _File) -> None:
    """List the clients of the file, and what each may call.

    \b
    lectern token list --file tokens.json
    """
    table = Table("client", "scopes", "expires", "limits", box=None, pad_edge=False)
    for entry in _read(file).tokens:
        table.add_row(entry.name, " ".join(entry.scopes), str(entry.expires or "never"), _limits(entry))
    show(table)


@token.command()
def revoke(name: _Name, file: _File) -> None:
    """Remove a client's token from the file. A running server refuses it within a second.

    \b
    lectern token revoke website --file tokens.json
    """
    old = _read(file)
    remaining = tuple(entry for entry in old.tokens if entry.name != name)
    if len(remaining) == len(old.tokens):
        fail(f"{file} has no token called {name!r}; it has: {', '.join(e.name for e in old.tokens) or 'none'}")
    _write(old.model_copy(update={"tokens": remaining}), file)
    typer.echo(f"{name} is revoked", err=True)


def _limits(entry: Token) -> str:
    limits = entry.model_dump(include={"requests_per_second", "burst", "concurrency"}, exclude_none=True)
    return ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "the server's"


def _read(file: Path) -> TokenFile:
    from services.server.auth import TokenFile
    from services.server.settings import StartError

    try:
        return TokenFile.read(file)
    except StartError as error:
        fail(str(error), WRONG_USAGE)


def _write(tokens: TokenFile, file: Path) -> None:
    try:
        tokens.write(file)
    except OSError as error:
        fail(f"cannot write {file}: {error.strerror}")
