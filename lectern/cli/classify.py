"""`lectern classify`: what is on pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lectern.channel import MAX_MESSAGE_BYTES
from lectern.cli.connection import Connection
from lectern.cli.output import check_files, fail, print_json, read, show

if TYPE_CHECKING:
    from lectern.errors import LecternError
    from lectern.v1.classify_pb2 import Classification

IMAGES_PER_REQUEST = 256
BYTES_PER_REQUEST = MAX_MESSAGE_BYTES - 1024 * 1024  # the rest is for what surrounds the images


def classify(
    connection: Connection,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="PNG, JPEG or WebP files; - is standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="One of `lectern models`.", show_default="image_classifier")] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    top_k: Annotated[int, typer.Option(min=0, help="Classes to print for each file, best first; 0 = all.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is on pictures.

    \b
    lectern classify cat.png dog.jpg
    lectern classify --model drawing_classifier --top-k 5 sketch.webp
    curl -s https://example.org/cat.jpg | lectern classify -
    """
    answers: list[dict[str, Any]] = []
    answered_by: dict[str, Any] = {}
    check_files(files)
    with connection.client() as client:
        from lectern.errors import LecternError

        for paths, images in batches(files):
            try:
                response = client.classify_image(images, model, version or answered_by.get("version", 0), top_k)
            except LecternError as error:
                name_files(error, {"images": paths})
                raise
            answered_by = {"model": response.model, "version": response.version}
            answers += as_dicts(paths, response.results)
    if as_json:
        print_json({**answered_by, "results": answers})
        return
    show_classes(answers)


def as_dicts(paths: Sequence[Path], results: Sequence[Classification]) -> list[dict[str, Any]]:
    """What JSON has of each file's classes."""
    return [
        {
            "file": str(path),
            "classes": [{"label": c.label, "index": c.index, "probability": c.probability} for c in result.classes],
        }
        for path, result in zip(paths, results, strict=True)
    ]


def show_classes(answers: list[dict[str, Any]]) -> None:
    """Print a table for each file."""
    for answer in answers:
        show(Text(answer["file"], style="bold", no_wrap=True, overflow="ignore"))
        table = Table(box=None, show_header=False)
        for scored in answer["classes"]:
            bar = ProgressBar(total=1, completed=scored["probability"], width=30)
            table.add_row(scored["label"], f"{scored['probability']:.1%}", bar)
        show(table)


def batches(files: list[Path]) -> Iterator[tuple[list[Path], list[bytes]]]:
    """Files with their contents, as many at a time as one request takes.

    Raises:
        typer.Exit: a file cannot be read.
    """
    paths: list[Path] = []
    images: list[bytes] = []
    for path in files:
        image = read(path)
        if paths and (len(paths) == IMAGES_PER_REQUEST or sum(map(len, images)) + len(image) > BYTES_PER_REQUEST):
            yield paths, images
            paths, images = [], []
        paths.append(path)
        images.append(image)
    yield paths, images


def name_files(error: LecternError, files: Mapping[str, Sequence[Path]]) -> None:
    """End with the names of the files that the server refused, if it refused any.

    Args:
        files: those that were sent, by the field of the request that held them.

    Raises:
        typer.Exit: it did.
    """
    refused = [
        f"{files[found[1]][int(found[2])]}: {description}"
        for field, description in error.violations
        if (found := re.match(r"(\w+)\[(\d+)\]", field)) and found[1] in files
    ]
    if refused:
        fail("\n  ".join(refused))
