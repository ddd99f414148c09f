"""`lectern act`: what a policy does on observations."""

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
    from lectern.v1.act_pb2 import Action

ROWS_PER_REQUEST = 4096
MAX_SEED = 2**63  # room for one of each request


def act(
    connection: Connection,
    observation: Annotated[
        list[str],
        typer.Argument(
            metavar="NUMBER... | FILE.csv",
            help="One observation, or a table of them; - is standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="One of `lectern models`.")] = "lunar_lander",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    sample: Annotated[bool, typer.Option("--sample", help="Draw actions by their probability.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Choose an action for each observation: the most probable one, or with --sample one drawn.

    Numbers are the card's features in their order; a table is read as `lectern predict` does. A terminal shows a table,
    a pipe or file gets CSV.

    \b
    lectern act 0 1.4 0.3 -0.5 -0.1 0.05 0 0
    lectern act observations.csv --json
    lectern act observations.csv --sample --seed 3 > actions.csv
    """
    with connection.client() as client:
        rows = observations(client, observation, model, version)
        actions: list[dict[str, Any]] = []
        for start in range(0, len(rows), ROWS_PER_REQUEST):
            # A seed for each request, or rows of several would share their draws.
            response = client.act(rows[start : start + ROWS_PER_REQUEST], model, version, sample, seed + start)
            version = response.version
            actions += [as_dict(action) for action in response.results]
    if as_json:
        print_json({"model": model, "version": version, "results": actions})
        return
    lines = [(a["label"], f"{a['probabilities'][a['index']]:.4g}", f"{a['value']:.4g}") for a in actions]
    if sys.stdout.isatty():
        table = Table("row", "action", "probability", "value")
        for number, line in enumerate(lines, start=1):
            table.add_row(str(number), *line)
        show(table)
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([("action", "probability", "value"), *lines])


def observations(client: Client, given: list[str], model: str, version: int) -> list[list[float]]:
    """The observation whose numbers are given, or those of the table whose file is.

    Raises:
        typer.Exit: it is neither, or the model takes no observations.
    """
    try:
        return [[float(number) for number in given]]
    except ValueError:
        if len(given) > 1:
            fail(f"{' '.join(given)}: give numbers, or one file", WRONG_USAGE)
    file = Path(given[0])
    check_files([file])
    preprocessing = ready_card(client, model, version).get("preprocessing", {})
    if preprocessing.get("kind") != "observation":
        fail(f"{model} takes no observations: name a model of capability act with --model", WRONG_USAGE)
    return read_table(file, preprocessing["features"])


def as_dict(action: Action) -> dict[str, Any]:
    """An action as JSON has it."""
    return {
        "label": action.label,
        "index": action.index,
        "probabilities": [shortest(probability) for probability in action.probabilities],
        "value": shortest(action.value),
    }
