"""`lectern transform`: an image redrawn in another style."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.classify import name_files
from lectern.cli.connection import Connection
from lectern.cli.output import STDIN, STDOUT, check_files, read, write


def transform(
    connection: Connection,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="PNG, JPEG or WebP; - is standard input.", show_default=False),
    ],
    style: Annotated[str, typer.Option(help="What to redraw it as: printed or handwritten.")] = "printed",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; - is standard output.", show_default="FILE-STYLE.png, in a pipe -"),
    ] = None,
    model: Annotated[str, typer.Option(help="One of `lectern models`.")] = "style_translator",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
) -> None:
    """Redraw an image in another style.

    \b
    lectern transform seven.png
    lectern transform seven.png --style handwritten --out mine.png
    lectern transform - < seven.png | display -
    """
    check_files([file])
    if out is None:
        out = STDOUT if file == STDIN or not sys.stdout.isatty() else file.with_name(f"{file.stem}-{style}.png")
    with connection.client() as client:
        from lectern.errors import LecternError

        try:
            image = client.transform_image(read(file), style, model, version).image
        except LecternError as error:
            name_files(error, {"image": [file]})
            raise
    write(out, image)
