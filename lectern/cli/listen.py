"""`lectern listen`: what is in audio while it is being recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from lectern.cli.classify import segment_as_dict, segment_row
from lectern.cli.connection import Connection
from lectern.cli.output import WRONG_USAGE, as_json, fail, show

PIECES_PER_SECOND = 10
LONGEST_SECONDS = 24 * 60 * 60


def listen(
    connection: Connection,
    rate: Annotated[int, typer.Option(min=1, help="Samples per second of standard input, Hz.")] = 16_000,
    model: Annotated[str, typer.Option(help="One of `lectern models`.", show_default="phoneme_classifier")] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> None:
    """Say what is in audio while it is being recorded: start, end, class and confidence of each segment as it ends.

    Standard input is raw audio: mono, signed 16-bit little-endian.

    \b
    arecord -q -f S16_LE -r 16000 | lectern listen
    ffmpeg -loglevel error -i talk.mp3 -f s16le -ac 1 -ar 16000 - | lectern listen
    """
    with connection.client() as client:
        pieces = recorded(2 * rate // PIECES_PER_SECOND)
        for response in client.stream_classify_audio(pieces, rate, model, version, timeout=LONGEST_SECONDS):
            for segment in map(segment_as_dict, response.segments):
                if json_lines:
                    typer.echo(as_json(segment))
                else:
                    start, end, label, confidence = segment_row(segment)
                    show(Text(f"{start:>9} {end:>9}  {label:<8} {confidence:>6}"))


def recorded(size: int) -> Iterator[bytes]:
    """Standard input as it comes, about `size` bytes at a time and whole samples only.

    Raises:
        typer.Exit: it is closed.
    """
    if sys.stdin is None:
        fail("standard input is closed", WRONG_USAGE)
    left = b""
    while piece := sys.stdin.buffer.read1(size):  # type: ignore[union-attr]
        whole = len(left + piece) // 2 * 2
        yield (left + piece)[:whole]
        left = (left + piece)[whole:]
