"""`lectern tag`: what a text wants, and its labelled parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection
from lectern.cli.files import STDIN, read_text
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import print_response, show, show_notices

if TYPE_CHECKING:
    from lectern.v1.tag_pb2 import TaggedText

STYLES = ("green", "cyan", "magenta", "yellow", "blue", "red")


@command(ASK)
def tag(
    connection: Connection,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="None, or -, is standard input, a text a line.", show_default=False),
    ] = None,
    model: Annotated[str, default_model("slot_tagger")] = "",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Say what a request wants, and which of its words say of what.

    \b
    lectern tag "book a table for four tomorrow"
    lectern tag "play Nina Simone on Spotify" "will it rain in Oslo on Friday?"
    lectern tag --json < requests.txt
    """
    given = texts if texts and texts != ["-"] else [line for line in read_text(STDIN).splitlines() if line.strip()]
    with connection.client() as client:
        response = client.tag_text(given, model, version, top_k=1)
    for result in response.results:
        show_notices(result.notices)
    if as_json:
        print_response(response, "text", given)
        return
    for text, result in zip(given, response.results, strict=True):
        colours = {label: STYLES[i % len(STYLES)] for i, label in enumerate(sorted({s.label for s in result.spans}))}
        show(_marked(text, result, colours))
        if result.spans:
            show(_table(result, colours))


def _marked(text: str, result: TaggedText, colours: dict[str, str]) -> Text:
    """The text with its labelled parts in colour, and what it wants."""
    marked = Text(text)
    for span in result.spans:
        marked.stylize(f"bold {colours[span.label]}", span.start, span.end)
    for scored in result.classes[:1]:
        marked.append(f"  {scored.label} {scored.probability:.1%}", style="dim")
    return marked


def _table(result: TaggedText, colours: dict[str, str]) -> Table:
    """Each labelled part with its label and probability."""
    table = Table(box=None, show_header=False)
    for span in result.spans:
        table.add_row(Text(span.label, style=colours[span.label]), Text(span.text), f"{span.probability:.1%}")
    return table
