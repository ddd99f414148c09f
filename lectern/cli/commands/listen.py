"""`lectern listen`: the segments of audio while it is recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from lectern.cli.app import ASK, command
from lectern.cli.commands.classify import segment_cells
from lectern.cli.connection import Connection
from lectern.cli.options import Version, default_model
from lectern.cli.output import WRONG_USAGE, as_document, as_json, fail, show

PIECES_PER_SECOND = 10
BYTES_PER_SAMPLE = 2
LONGEST_SECONDS = 24 * 60 * 60


@command(ASK)
def listen(
    connection: Connection,
    rate: Annotated[int, typer.Option(min=1, help="Samples per second of standard input, Hz.")] = 16_000,
    model: Annotated[str, default_model("phoneme_classifier")] = "",
    version: Version = 0,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> None:
    """Classify audio while it is recorded: print start, end, class and confidence of each segment as it ends.

    Standard input is raw audio: mono, signed 16-bit little-endian.

    \b
    arecord -q -f S16_LE -r 16000 | lectern listen
    ffmpeg -loglevel error -i talk.mp3 -f s16le -ac 1 -ar 16000 - | lectern listen
    """
    with connection.client() as client:
        pieces = _recorded(BYTES_PER_SAMPLE * rate // PIECES_PER_SECOND)
        for response in client.stream_classify_audio(pieces, rate, model, version, timeout=LONGEST_SECONDS):
            for segment in response.segments:
                if json_lines:
                    typer.echo(as_json(as_document(segment)))
                else:
                    start, end, label, confidence = segment_cells(segment)
                    show(Text(f"{start:>9} {end:>9}  {label:<8} {confidence:>6}"))


def _recorded(size: int) -> Iterator[bytes]:
    """Standard input as it arrives, whole samples in pieces of about `size` bytes."""
    if sys.stdin is None:
        fail("standard input is closed", WRONG_USAGE)
    rest = b""
    while piece := sys.stdin.buffer.read1(size):  # type: ignore[union-attr]
        received = rest + piece
        whole = len(received) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
        yield received[:whole]
        rest = received[whole:]
