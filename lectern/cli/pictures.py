"""Pictures that commands write: enlarged where a model's own would be too small to see anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.files import write

READABLE = 224  # pixels of the longer side, at least
MOST_SCALE = 64

Scale = Annotated[
    int,
    typer.Option(
        "--scale",
        min=0,
        max=MOST_SCALE,
        metavar="N",
        help="Enlarge written pictures: N x N pixels for each one; 1 = as the model makes them.",
        show_default=f"until the longer side has {READABLE}",
    ),
]


def write_picture(path: Path, png: bytes, scale: int) -> None:
    """Write a picture to a file, or to standard output for `-`; see `enlarged`."""
    write(path, enlarged(png, scale))


def enlarged(png: bytes, scale: int) -> bytes:
    """A PNG whose pixels are squares of `scale` pixels; 0 = of as many as make it readable.

    Models take the mean of such a square, so that they see an enlarged picture as the small one.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        scale = scale or -(-READABLE // max(picture.size))
        if scale == 1:
            return png
        larger = picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    larger.save(buffer, "PNG")
    return buffer.getvalue()
