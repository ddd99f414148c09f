"""`lectern classify`: what is on pictures, and in texts."""

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
from lectern.cli.output import WRONG_USAGE, check_files, fail, print_json, read, show
from lectern.cli.texts import classify_arguments, classify_files, is_text

if TYPE_CHECKING:
    from lectern.errors import LecternError
    from lectern.v1.classify_pb2 import Classification, ClassifyImageResponse, ClassifyTextResponse

IMAGES_PER_REQUEST = 256
BYTES_PER_REQUEST = MAX_MESSAGE_BYTES - 1024 * 1024  # the rest is for what surrounds the images


def classify(
    connection: Connection,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="PNG, JPEG or WebP files, or texts as UTF-8; - is standard input.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        list[str] | None, typer.Option("--text", metavar="TEXT", help="A text; may be given several times.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="One of `lectern models`.", show_default="image_classifier or sentiment_classifier")
    ] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    top_k: Annotated[int, typer.Option(min=0, help="Classes to print for each file, best first; 0 = all.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is on pictures, or what kind of text something is.

    \b
    lectern classify cat.png dog.jpg
    lectern classify --model drawing_classifier --top-k 5 sketch.webp
    curl -s https://example.org/cat.jpg | lectern classify -
    lectern classify --text "What a lovely film!"
    lectern classify --model spam_classifier mail.txt
    """
    answers: list[dict[str, Any]] = []
    answered_by: dict[str, Any] = {}
    if bool(files) == bool(texts):
        fail("name files, or give texts with --text", WRONG_USAGE)
    check_files(files or [])
    with connection.client() as client:
        from lectern.errors import LecternError

        response: ClassifyImageResponse | ClassifyTextResponse
        if texts:
            response = classify_arguments(client, texts, model, version, top_k)
            answered_by = {"model": response.model, "version": response.version}
            answers = as_dicts(texts, response.results, "text")
        for paths, contents in batches(files) if files else ():
            version = version or answered_by.get("version", 0)
            try:
                if is_text(contents[0]):
                    response = classify_files(client, contents, model, version, top_k)
                else:
                    response = client.classify_image(contents, model, version, top_k)
            except LecternError as error:
                name_files(error, {"images": paths, "texts": paths})
                raise
            answered_by = {"model": response.model, "version": response.version}
            answers += as_dicts(paths, response.results)
    if as_json:
        print_json({**answered_by, "results": answers})
        return
    show_classes(answers)


def as_dicts(items: Sequence[object], results: Sequence[Classification], kind: str = "file") -> list[dict[str, Any]]:
    """What JSON has of the classes of each item, a `file` or a `text`."""
    return [
        {
            kind: str(item),
            "classes": [{"label": c.label, "index": c.index, "probability": c.probability} for c in result.classes],
        }
        for item, result in zip(items, results, strict=True)
    ]


def show_classes(answers: list[dict[str, Any]]) -> None:
    """Print a table for each file."""
    for answer in answers:
        show(Text(answer.get("file") or answer["text"], style="bold", no_wrap=True, overflow="ignore"))
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
