"""`lectern models`: the models of a server."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from lectern.cli.app import SERVE, command
from lectern.cli.cards import main_metric
from lectern.cli.completion import model_or_homework
from lectern.cli.connection import Connection
from lectern.cli.listing import of_name, served_models
from lectern.cli.options import AsJson
from lectern.cli.output import console, print_json, show

WIDE = 110  # columns of a terminal that have room for intervals
STYLES = {"ready": "green", "unavailable": "red"}


@command(SERVE)
def models(
    connection: Connection,
    model: Annotated[
        str,
        typer.Option(help="Only this model, or those of this homework, e.g. HW3.", autocompletion=model_or_homework),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the models of a server: lecture, capability, state, and the main figure on the test set.

    \b
    lectern models
    lectern models --model HW3
    lectern models --target gpu-box:8001
    lectern models --json | jq '.models[].name'
    lectern show image_classifier              the card of one
    """
    with connection.client() as client:
        documents = served_models(client)
    if model:
        documents = of_name(documents, model)
    if as_json:
        print_json({"models": documents})
        return
    is_wide = console().width >= WIDE
    table = Table(Column("model", no_wrap=True), box=None, pad_edge=False)
    for title in ("lecture", "capability", "ver.", "state", "test metric"):
        # The lecture's title and the reason of a failure are what may be broken into lines.
        table.add_column(title, no_wrap=title in ("capability", "ver."), overflow="fold")
    for document in documents:
        for entry in document["versions"]:
            described = Text(entry["state"], STYLES.get(entry["state"], ""))
            if entry["reason"]:
                described.append(f": {entry['reason']}", "default")
            names = (document["name"], document["lecture"], document["capability"])
            table.add_row(*names, str(entry["version"]), described, main_metric(entry["card"], is_wide))
    show(table)
