"""`lectern models`: the models of a server."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from lectern.cli.app import SERVE, command
from lectern.cli.cards import card, main_metric, state
from lectern.cli.connection import Connection
from lectern.cli.options import AsJson
from lectern.cli.output import as_document, fail, print_json, show


@command(SERVE)
def models(
    connection: Connection,
    model: Annotated[str, typer.Option(help="Only this model, or those of this homework, e.g. HW3.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the models of a server: lecture, capability, state, and the main figure on the test set.

    \b
    lectern models
    lectern models --model HW3
    lectern models --target gpu-box:8001
    lectern models --json | jq '.models[].name'
    """
    with connection.client() as client:
        served = client.list_models(include_cards=True).models
    chosen = [one for one in served if not model or model == one.name or model.upper() == one.lecture]
    if not chosen and model:
        fail(f"there is no model or homework {model!r}; there are: {', '.join(one.name for one in served)}")
    documents = []
    for one in chosen:
        document = as_document(one)
        for entry, version in zip(document["versions"], one.versions, strict=True):
            entry |= {"state": state(version), "card": card(version)}
        documents.append(document)
    if as_json:
        print_json({"models": documents})
        return
    model_column, metric_column = Column("model", no_wrap=True), Column("test metric", no_wrap=True)
    table = Table(model_column, "lecture", "capability", "version", "state", metric_column, box=None, pad_edge=False)
    for document in documents:
        for entry in document["versions"]:
            described = f"{entry['state']}: {entry['reason']}" if entry["reason"] else entry["state"]
            names = (document["name"], document["lecture"], document["capability"])
            table.add_row(*names, str(entry["version"]), described, main_metric(entry["card"]))
    show(table)
