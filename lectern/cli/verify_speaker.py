"""`lectern verify-speaker`: whether two recordings are of one speaker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lectern.cli.classify import name_files
from lectern.cli.connection import Connection
from lectern.cli.output import check_files, print_json, read, shortest, show

_File = typer.Argument(metavar="FILE", help="WAV, FLAC, OGG or MP3; - is standard input.", show_default=False)


def verify_speaker(
    connection: Connection,
    first: Annotated[Path, _File],
    second: Annotated[Path, _File],
    threshold: Annotated[
        float | None,
        typer.Option(help="Lowest score of one speaker, -1 to 1.", show_default="where the model errs equally"),
    ] = None,
    model: Annotated[str, typer.Option(help="One of `lectern models`.", show_default="speaker_classifier")] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say whether two recordings are of the same speaker, who need not be one of the model's.

    \b
    lectern verify-speaker yesterday.wav today.wav
    lectern verify-speaker yesterday.wav today.ogg --threshold 0.8 --json
    """
    check_files([first, second])
    with connection.client() as client:
        from lectern.errors import LecternError

        try:
            answer = client.verify_speaker(read(first), read(second), model, version, threshold=threshold)
        except LecternError as error:
            name_files(error, {"first": [first], "second": [second]})
            raise
    score, applied = shortest(answer.score), shortest(answer.threshold)
    if as_json:
        found = {"score": score, "threshold": applied, "same_speaker": answer.same_speaker}
        print_json({"model": answer.model, "version": answer.version, **found})
        return
    decision = "the same speaker" if answer.same_speaker else "different speakers"
    show(Text.assemble((decision, "bold"), f"  score {score:.3f}, threshold {applied:.3f}"))
