"""`lectern predict`: numbers for the rows of a table."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lectern.cli.connection import Connection
from lectern.cli.models import ready_card
from lectern.cli.output import WRONG_USAGE, check_files, fail, print_json, shortest, show
from lectern.cli.rows import read_table

if TYPE_CHECKING:
    from lectern.client import Client

ROWS_PER_REQUEST = 4096


def predict(
    connection: Connection,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv",
            help="Comma-separated rows; - is standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="One of `lectern models`.")] = "covid_regressor",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Predict a number for each row of a table.

    With a header, columns are found by name and others ignored; repeated names count as pandas numbers them
    (cli, cli.1, cli.2). Without one, the columns are the model's features in their order. A terminal shows a table, a
    pipe or file gets CSV.

    \b
    lectern predict covid.test.csv
    lectern predict covid.test.csv > predictions.csv
    head -3 covid.test.csv | lectern predict - --json
    """
    check_files([file])
    with connection.client() as client:
        version, features, targets = signature(client, model, version)
        rows = read_table(file, features)
        values: list[list[float]] = []
        for start in range(0, len(rows), ROWS_PER_REQUEST):
            response = client.predict(rows[start : start + ROWS_PER_REQUEST], model, version)
            values += [[shortest(value) for value in result.values] for result in response.results]
    if as_json:
        results = [{"values": row} for row in values]
        print_json({"model": model, "version": version, "targets": targets, "results": results})
    elif sys.stdout.isatty():
        table = Table("row", *targets)
        for number, row in enumerate(values, start=1):
            table.add_row(str(number), *(f"{value:g}" for value in row))
        show(table)
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([targets, *values])


def signature(client: Client, model: str, version: int) -> tuple[int, list[str], list[str]]:
    """The version that will answer, its features and its targets, from its card.

    Raises:
        typer.Exit: no version of it is ready, or it does not take rows.
    """
    card = ready_card(client, model, version)
    preprocessing: dict[str, Any] = card.get("preprocessing", {})
    if preprocessing.get("kind") != "tabular":
        fail(f"{model} takes no rows of a table: name a model of capability predict with --model", WRONG_USAGE)
    return card["version"], preprocessing["features"], preprocessing["targets"]
