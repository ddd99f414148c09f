"""`lectern verify-speaker`: whether two recordings are of one speaker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection
from lectern.cli.files import check_files, named_in_errors, read_all
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import print_response, show

_Recording = Annotated[
    Path, typer.Argument(metavar="FILE", help="WAV, FLAC, OGG or MP3; - is standard input.", show_default=False)
]


@command(ASK)
def verify_speaker(
    connection: Connection,
    first: _Recording,
    second: _Recording,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Lowest score of one speaker, -1 to 1.", show_default="where both errors are equally frequent"
        ),
    ] = None,
    model: Annotated[str, default_model("speaker_classifier")] = "",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether two recordings are of one speaker, who need not be among the model's.

    \b
    lectern verify-speaker yesterday.wav today.wav
    lectern verify-speaker yesterday.wav today.ogg --threshold 0.8 --json
    """
    check_files([first, second])
    recordings = read_all([first, second])
    with connection.client() as client, named_in_errors(first=[first], second=[second]):
        response = client.verify_speaker(recordings[0], recordings[1], model, version, threshold=threshold)
    if as_json:
        print_response(response)
        return
    decision = "the same speaker" if response.same_speaker else "different speakers"
    show(Text.assemble((decision, "bold"), f"  score {response.score:.3f}, threshold {response.threshold:.3f}"))
