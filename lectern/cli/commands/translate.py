"""`lectern translate`: texts in another language."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lectern.cli.app import ASK, LONG, command
from lectern.cli.connection import Connection
from lectern.cli.files import read_texts
from lectern.cli.options import AsJson, Model, Version
from lectern.cli.output import WRONG_USAGE, fail, print_response, show, show_notices

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.translate_pb2 import TranslatedSentence

SHADES = " ░▒▓█"


class Script(StrEnum):
    """Traditional or Simplified characters."""

    HANT = "hant"
    HANS = "hans"


@command(ASK, timeout=LONG)
def translate(
    connection: Connection,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="None, or -, is standard input.", show_default=False),
    ] = None,
    beam_size: Annotated[
        int, typer.Option(min=0, max=8, help="1 = the greedy choice.", show_default="the model's")
    ] = 0,
    count: Annotated[int, typer.Option(min=1, max=8, help="Translations of each text.")] = 1,
    alignment: Annotated[bool, typer.Option(help="Show the attention of each token to the source.")] = False,
    script: Annotated[
        Script | None,
        typer.Option(help="Of Chinese: Traditional or Simplified.", show_default="as the model writes"),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it is generated.")] = False,
    model: Model = "translator_en_zh",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Translate English into Chinese.

    A text of any length is translated sentence by sentence and keeps its line breaks.

    \b
    lectern translate "Where is the library?"
    lectern translate "I can cook." --count 4 --beam-size 8
    lectern translate "He wants to get a new dictionary." --alignment
    lectern translate "Where is the library?" --script hans
    lectern translate < letter.txt > letter.zh.txt
    """
    if stream and (count > 1 or alignment or as_json):
        fail("--stream prints the text alone: leave out --count, --alignment and --json", WRONG_USAGE)
    sources = read_texts(texts)
    with connection.client(quiet=stream) as client:
        if stream:
            _stream(client, sources, model, version, beam_size, script)
            return
        response = client.translate(
            sources,
            model,
            version,
            beam_size=beam_size,
            count=count,
            alignment=alignment,
            script=script or "",  # type: ignore[arg-type]
        )
    for result in response.results:
        show_notices(result.notices)
    if as_json:
        print_response(response)
        return
    for result in response.results:
        for translation in result.translations:
            typer.echo(translation.text if count == 1 else f"{translation.score:.3f}\t{translation.text}")
        if alignment:
            for sentence in result.translations[0].sentences:
                show(_attention(sentence))


def _stream(client: Client, texts: list[str], model: str, version: int, beam_size: int, script: Script | None) -> None:
    """Print each sentence as it grows, or when it is final if its text may change till then."""
    changes = beam_size > 1 or script is Script.HANS
    for text in texts:
        printed = ""
        responses = client.stream_translate(
            text,
            model,
            version,
            beam_size=beam_size,
            script=script or "",  # type: ignore[arg-type]
        )
        for response in responses:
            show_notices(response.notices)
            if changes and not response.final:
                continue
            typer.echo(response.text.removeprefix(printed), nl=False)
            sys.stdout.flush()
            printed = "" if response.final else response.text
        typer.echo()


def _attention(sentence: TranslatedSentence) -> Table:
    """A row for each token of the translation and a column for each token of the source; darker = more attention."""
    table = Table("", *(token.text for token in sentence.source_tokens), padding=(0, 0))
    for token in sentence.tokens:
        shades = (2 * SHADES[min(int(weight * len(SHADES)), len(SHADES) - 1)] for weight in token.attention)
        table.add_row(token.text, *shades)
    return table
