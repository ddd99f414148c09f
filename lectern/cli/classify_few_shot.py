"""`lectern classify-few-shot`: which of some new classes is on pictures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.classify import as_dicts, name_files, show_classes
from lectern.cli.connection import Connection
from lectern.cli.output import WRONG_USAGE, as_text, check_files, fail, print_json, read

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class Method(StrEnum):
    """How to learn from the examples."""

    prototypes = "prototypes"
    maml = "maml"
    first_order_maml = "first-order-maml"


def classify_few_shot(
    connection: Connection,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="PNG, JPEG or WebP files; - is standard input.", show_default=False),
    ],
    support: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder of examples, with one folder of images for each class."
        ),
    ],
    method: Annotated[Method, typer.Option(help="How to learn from the examples.")] = Method.prototypes,
    steps: Annotated[
        int, typer.Option(min=0, help="Gradient steps of the MAML methods.", show_default="the model's own")
    ] = 0,
    model: Annotated[str, typer.Option(help="One of `lectern models`.", show_default="few_shot_classifier")] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    top_k: Annotated[int, typer.Option(min=0, help="Classes to print for each file, best first; 0 = all.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say which of some new classes is on pictures, from a few examples of each.

    The examples' folder holds one folder for each class, named after it: letters/alpha/1.png, letters/beta/1.png.

    \b
    lectern classify-few-shot --support letters unknown.png
    lectern classify-few-shot --support letters --method maml --steps 10 *.png --json
    """
    check_files(files)
    examples = read_examples(support)
    with connection.client() as client:
        from lectern.errors import LecternError

        images = {label: [read(path) for path in paths] for label, paths in examples.items()}
        queries = [read(path) for path in files]
        try:
            response = client.classify_few_shot(images, queries, model, version, top_k, method.name, steps)  # type: ignore[arg-type]
        except LecternError as error:
            name_files(error, {"queries": files, "support": [p for paths in examples.values() for p in paths]})
            raise
    answers = as_dicts(files, response.results)
    if as_json:
        print_json({"model": response.model, "version": response.version, "results": answers})
    else:
        show_classes(answers)


def read_examples(support: Path) -> dict[str, list[Path]]:
    """Image files by the name of their folder.

    Raises:
        typer.Exit: there is no folder with an image.
    """
    folders = sorted(path for path in support.iterdir() if path.is_dir())
    examples = {
        as_text(folder.name): sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        for folder in folders
    }
    examples = {label: paths for label, paths in examples.items() if paths}
    if not examples:
        fail(f"{support}: has no folder of PNG, JPEG or WebP images, one for each class", WRONG_USAGE)
    return examples
