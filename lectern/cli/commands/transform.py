"""`lectern transform`: an image redrawn in another style."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection
from lectern.cli.files import STDIN, STDOUT, check_files, named_in_errors, read
from lectern.cli.options import Model, Version
from lectern.cli.pictures import Scale, write_picture


@command(ASK)
def transform(
    connection: Connection,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="PNG, JPEG or WebP; - is standard input.", show_default=False),
    ],
    style: Annotated[str, typer.Option(help="The new style: printed or handwritten.")] = "printed",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; - is standard output.", show_default="FILE-STYLE.png, in a pipe -"),
    ] = None,
    scale: Scale = 0,
    model: Model = "style_translator",
    version: Version = 0,
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
    with connection.client() as client, named_in_errors(image=[file]):
        image = client.transform_image(read(file), style, model, version).image
    write_picture(out, image, scale)
