"""`lectern predict`: numbers for the rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import ASK, command
from lectern.cli.cards import tabular_card
from lectern.cli.connection import Connection, chunks, in_requests
from lectern.cli.files import check_files
from lectern.cli.options import AsJson, Model, Version
from lectern.cli.output import as_document, print_json, print_rows
from lectern.cli.rows import ROWS_PER_REQUEST, read_table


@command(ASK)
def predict(
    connection: Connection,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.csv", help="Comma-separated rows; - is standard input.", show_default=False),
    ],
    model: Model = "covid_regressor",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Predict a number for each row of a table.

    With a header, columns are found by name and others are ignored; repeated names are numbered as pandas does (cli,
    cli.1, cli.2). Without one, the columns are the model's features in their order. A terminal gets a table, a pipe or
    file gets CSV.

    \b
    lectern predict covid.test.csv
    lectern predict covid.test.csv > predictions.csv
    head -3 covid.test.csv | lectern predict - --json
    """
    check_files([file])
    with connection.client() as client:
        card = tabular_card(client, model, version)
        rows = read_table(file, card["preprocessing"]["features"])
        response = in_requests(
            lambda part, version: client.predict(part, model, version), chunks(rows, ROWS_PER_REQUEST), card["version"]
        )
    document, targets = as_document(response), card["preprocessing"]["targets"]
    if as_json:
        print_json({**document, "targets": targets})
    else:
        print_rows(targets, [result["values"] for result in document["results"]])
