"""`lectern predict`: numbers for the rows of a table, or their classes by examples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lectern.cli.app import ASK, command
from lectern.cli.cards import tabular_card
from lectern.cli.connection import Connection, chunks, in_requests
from lectern.cli.files import STDIN, check_files
from lectern.cli.labelled_rows import read_examples, read_queries
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import WRONG_USAGE, as_document, fail, print_json, print_rows, show_notices
from lectern.cli.rows import ROWS_PER_REQUEST, read_table

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.classify_pb2 import Classification
    from lectern.v1.predict_pb2 import Prediction

MODEL, LEARNER = "covid_regressor", "table_learner"
MOST_NOTES = 5  # about single rows


@command(ASK)
def predict(
    connection: Connection,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.csv", help="Comma-separated rows; - is standard input.", show_default=False),
    ],
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Rows whose class is known, by which those of FILE.csv are classified; a few to some hundred.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column of --examples that has the class, by its name in the header.",
            show_default="the last one",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse rows unlike those that the model learned from, not just say so.")
    ] = False,
    model: Annotated[str, default_model(f"{MODEL}; with --examples {LEARNER}")] = "",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Predict a number for each row of a table, or with --examples a class.

    With a header, columns are found by name and others are ignored; repeated names are numbered as pandas does (cli,
    cli.1, cli.2). Without one, the columns are the model's features in their order. A terminal gets a table, a pipe or
    file gets CSV.

    With --examples nothing is trained: the model reads the examples and answers at once. Columns hold numbers in any
    unit, or a few categories. Cells may be empty. If FILE.csv has the column of the class too, it is not looked at, but
    compared with the answers in the end.

    \b
    lectern predict covid.test.csv
    lectern predict covid.test.csv > predictions.csv
    head -3 covid.test.csv | lectern predict - --json
    lectern predict --examples docs/examples/fruits.csv docs/examples/basket.csv
    """
    check_files([file, *([examples] if examples else [])])
    with connection.client() as client:
        if examples is None:
            if label is not None:
                fail("--label says which column of --examples has the class: give --examples too", WRONG_USAGE)
            _numbers(client, file, model or MODEL, version, strict, as_json)
        elif file == examples == STDIN:
            fail("only one of the two files can be standard input", WRONG_USAGE)
        else:
            _classes(client, file, examples, label, model or LEARNER, version, as_json)


def _numbers(client: Client, file: Path, model: str, version: int, strict: bool, as_json: bool) -> None:
    """Print what a model predicts for the rows of a file."""
    card = tabular_card(client, model, version)
    rows = read_table(file, card["preprocessing"]["features"])
    response = in_requests(
        lambda part, version: client.predict(part, model, version, strict),
        chunks(rows, ROWS_PER_REQUEST),
        card["version"],
    )
    _note_rows(f"{file}, data row", range(1, len(rows) + 1), response.results)
    document, targets = as_document(response), card["preprocessing"]["targets"]
    if as_json:
        print_json({**document, "targets": targets})
    else:
        print_rows(targets, [result["values"] for result in document["results"]])


def _classes(
    client: Client, file: Path, examples: Path, label: str | None, model: str, version: int, as_json: bool
) -> None:
    """Print the classes of the rows of a file, by those of the examples."""
    known = read_examples(examples, label)
    asked = read_queries(file, known)
    names = [column.name for column in known.columns]
    responses = []
    for part in chunks(asked.rows, ROWS_PER_REQUEST):
        response = client.predict_from_examples(known.rows, known.labels, part, model, version, columns=names)
        responses.append(response)
        version = response.version
    response = responses[0]
    for further in responses[1:]:
        response.results.MergeFrom(further.results)  # the notices are those of the same examples
    _note(f"{examples}: {text}" for text in known.notes)
    _note(f"{file}: {text}" for text in asked.notes)
    show_notices(response.notices, str(examples))
    _note_rows(f"{file}, row", asked.numbers, response.results)
    if as_json:
        print_json(as_document(response))
    else:
        best = [result.classes[0] for result in response.results]
        print_rows([known.label, "probability"], [[one.label, f"{one.probability:.4f}"] for one in best])
    if asked.labels:
        right = sum(one.classes[0].label == own for one, own in zip(response.results, asked.labels, strict=True))
        _note([f"{file}: {right} of {len(asked.labels)} rows have the class that its column {known.label} says"])


def _note(texts: Iterable[str]) -> None:
    for text in texts:
        typer.echo(f"note: {text}", err=True)


def _note_rows(place: str, numbers: Iterable[int], results: Iterable[Prediction | Classification]) -> None:
    """Print the notices of the first rows that have any, and how many others there are; on standard error."""
    doubtful = [(number, notice) for number, result in zip(numbers, results, strict=True) for notice in result.notices]
    for number, notice in doubtful[:MOST_NOTES]:
        show_notices([notice], f"{place} {number}")
    if len(doubtful) > MOST_NOTES:
        _note([f"{len(doubtful) - MOST_NOTES} more such notes; --json has all"])
