"""`lectern rewrite`: texts in another style."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection
from lectern.cli.files import read_texts
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import print_response, show, show_notices

if TYPE_CHECKING:
    from lectern.v1.translate_pb2 import RewrittenText


class Style(StrEnum):
    """The King James Version's English, or today's."""

    ARCHAIC = "archaic"
    MODERN = "modern"


@command(ASK)
def rewrite(
    connection: Connection,
    style: Annotated[
        Style, typer.Option(help="To write in: as the King James Version (1611), or as today.", show_default=False)
    ],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="None, or -, is standard input.", show_default=False),
    ] = None,
    copies: Annotated[
        bool, typer.Option("--copies", help="Show how much of each token is copied, and from where.")
    ] = False,
    model: Annotated[str, default_model("style_rewriter")] = "",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Rewrite English in another style.

    Write in sentences. A text is rewritten line by line, and what is in the style already mostly stays as it is.

    \b
    lectern rewrite --style archaic "You have a good heart."
    lectern rewrite --style modern "Thou hast a good heart." --copies
    lectern rewrite --style archaic < letter.txt > epistle.txt
    """
    sources = read_texts(texts)
    with connection.client() as client:
        response = client.rewrite(sources, style.value, model, version)
    for result in response.results:
        show_notices(result.notices)
    if as_json:
        print_response(response, "source", sources)
        return
    for source, result in zip(sources, response.results, strict=True):
        typer.echo(result.text)
        if copies:
            show(_copies(source, result))


def _copies(source: str, result: RewrittenText) -> Table:
    """A row for each token: how much of it is copied, and from what if it is more than half."""
    table = Table("token", "copied", "from", box=None)
    for token in result.tokens:
        origin = source[token.source_start : token.source_end] if token.p_copy > 0.5 else ""
        table.add_row(token.text, f"{token.p_copy:.0%}", origin)
    return table
