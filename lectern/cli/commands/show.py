"""`lectern show`: the card of a model, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from lectern.cli.app import SERVE, command
from lectern.cli.card_page import brief, card_page
from lectern.cli.completion import model_or_homework
from lectern.cli.connection import Connection
from lectern.cli.listing import models_on_disk, of_name, served_models, shown_version
from lectern.cli.options import AsJson
from lectern.cli.output import WRONG_USAGE, fail, print_json
from lectern.cli.output import show as show_page


@command(SERVE)
def show(
    connection: Connection,
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|HOMEWORK",
            help="A model, or a homework, e.g. HW7: each of its models in brief.",
            show_default=False,
            autocompletion=model_or_homework,
        ),
    ],
    version: Annotated[int, typer.Option(min=0, help="Of the model.", show_default="the one that answers")] = 0,
    repository: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Read cards from there; no server is asked.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a model's card: what it does, for what, how well, where it fails, and where it comes from.

    \b
    lectern show image_classifier
    lectern show HW7
    lectern show compact_classifier --version 3
    lectern show image_classifier --repository exported
    """
    if repository is not None:
        documents = models_on_disk(repository)
    else:
        with connection.client() as client:
            documents = served_models(client)
    chosen = of_name(documents, name)
    if version and len(chosen) > 1:
        fail(f"{name} has {len(chosen)} models: name one of them with --version", WRONG_USAGE)
    versions = [shown_version(document, version) for document in chosen]
    if as_json:
        pairs = zip(chosen, versions, strict=True)
        print_json({"models": [{**one, "versions": [shown] if version else one["versions"]} for one, shown in pairs]})
    elif len(chosen) == 1:
        show_page(card_page(chosen[0], versions[0]))
    else:
        show_page(Group(*(part for pair in zip(chosen, versions, strict=True) for part in (brief(*pair), ""))))
        show_page(Text(f"`lectern show {chosen[0]['name']}` has the whole card", style="dim"))
