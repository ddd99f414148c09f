"""`lectern translate`: texts into another language."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lectern.cli.connection import Connection
from lectern.cli.output import STDIN, WRONG_USAGE, fail, print_json, read_text, show, show_notices

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.translate_pb2 import TranslatedSentence

SHADES = " ░▒▓█"


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
    alignment: Annotated[bool, typer.Option(help="Show what the model looked at.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print it as it is written.")] = False,
    model: Annotated[str, typer.Option(help="One of `lectern models`.")] = "translator_en_zh",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Translate English into Traditional Chinese.

    A text of any length is translated sentence by sentence; its line breaks stay.

    \b
    lectern translate "Where is the library?"
    lectern translate "I can cook." --count 4 --beam-size 8
    lectern translate "He wants to get a new dictionary." --alignment
    lectern translate < letter.txt > letter.zh.txt
    """
    if stream and (count > 1 or alignment or as_json):
        fail("--stream prints the text alone: leave out --count, --alignment and --json", WRONG_USAGE)
    given = [read_text(STDIN)] if not texts or texts == ["-"] else texts
    with connection.client() as client:
        if stream:
            _stream(client, given, model, version, beam_size)
            return
        response = client.translate(given, model, version, beam_size=beam_size, count=count, alignment=alignment)
    for result in response.results:
        show_notices(result.notices)
    if as_json:
        from google.protobuf.json_format import MessageToDict

        document: dict[str, Any] = MessageToDict(response, preserving_proto_field_name=True)
        print_json(document)
        return
    for result in response.results:
        for translation in result.translations:
            typer.echo(translation.text if count == 1 else f"{translation.score:.3f}\t{translation.text}")
        if alignment:
            for sentence in result.translations[0].sentences:
                show(_attention(sentence))


def _stream(client: Client, texts: list[str], model: str, version: int, beam_size: int) -> None:
    """Print what is new of each sentence; of a beam search, whose text may change, each sentence when it is final."""
    for text in texts:
        printed = ""
        for response in client.stream_translate(text, model, version, beam_size=beam_size):
            show_notices(response.notices)
            if beam_size > 1 and not response.final:
                continue
            typer.echo(response.text.removeprefix(printed), nl=False)
            sys.stdout.flush()
            printed = "" if response.final else response.text
        typer.echo()


def _attention(sentence: TranslatedSentence) -> Table:
    """A row for each token of the translation, a column for each of the source; darker = looked at more."""
    table = Table("", *(token.text for token in sentence.source_tokens), padding=(0, 0))
    for token in sentence.tokens:
        shades = (2 * SHADES[min(int(weight * len(SHADES)), len(SHADES) - 1)] for weight in token.attention)
        table.add_row(token.text, *shades)
    return table
