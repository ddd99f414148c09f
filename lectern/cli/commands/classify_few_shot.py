"""`lectern classify-few-shot`: the class of pictures, among new classes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import ASK, LONG, command
from lectern.cli.commands.classify import show_classes
from lectern.cli.connection import Connection
from lectern.cli.files import check_files, example_files, named_in_errors, read_all
from lectern.cli.options import AsJson, Images, TopK, Version, default_model
from lectern.cli.output import print_response


class Method(StrEnum):
    """How to learn from the examples."""

    prototypes = "prototypes"
    maml = "maml"
    first_order_maml = "first-order-maml"


@command(ASK, timeout=LONG)
def classify_few_shot(
    connection: Connection,
    files: Images,
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
    model: Annotated[str, default_model("few_shot_classifier")] = "",
    version: Version = 0,
    top_k: TopK = 3,
    as_json: AsJson = False,
) -> None:
    """Classify pictures into new classes, from a few examples of each.

    The folder of examples holds one folder for each class, named after it: letters/alpha/1.png, letters/beta/1.png.

    \b
    lectern classify-few-shot --support letters unknown.png
    lectern classify-few-shot --support letters --method maml --steps 10 *.png --json
    """
    check_files(files)
    examples = example_files(support)
    support_files = [path for paths in examples.values() for path in paths]
    contents = iter(read_all([*support_files, *files]))
    images = {label: [next(contents) for _ in paths] for label, paths in examples.items()}
    queries = list(contents)
    with connection.client() as client, named_in_errors(queries=files, support=support_files):
        response = client.classify_few_shot(images, queries, model, version, top_k, method.name, steps)  # type: ignore[arg-type]
    if as_json:
        print_response(response, "file", files)
    else:
        show_classes(files, response.results)
