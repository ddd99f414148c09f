"""`lectern act`: which action a policy chooses for an observation."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lectern.cli.app import ASK, command
from lectern.cli.cards import ready_card
from lectern.cli.connection import Connection, chunks, in_requests
from lectern.cli.files import check_files
from lectern.cli.options import AsJson, Model, Sample, Version
from lectern.cli.output import WRONG_USAGE, fail, print_response, print_rows
from lectern.cli.rows import ROWS_PER_REQUEST, read_table

if TYPE_CHECKING:
    from lectern.client import Client

MAX_SEED = 2**63  # so that each request can have its own


@command(ASK, context_settings={"ignore_unknown_options": True})  # numbers may begin with a minus
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
    model: Model = "lunar_lander",
    version: Version = 0,
    sample: Sample = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Choose an action for each observation: the most probable one, or with --sample a random one.

    The numbers are the card's features, in their order; `lectern predict --help` says how a table is read. A terminal
    gets a table, a pipe or file gets CSV.

    \b
    lectern act 0 1.4 0.3 -0.5 -0.1 0.05 0 0
    lectern act observations.csv --json
    lectern act observations.csv --sample --seed 3 > actions.csv
    """
    with connection.client() as client:
        observations = _observations(client, observation, model, version)
        seeds = count(seed, ROWS_PER_REQUEST)  # with one seed, every request would draw the same numbers
        response = in_requests(
            lambda part, version: client.act(part, model, version, sample, next(seeds)),
            chunks(observations, ROWS_PER_REQUEST),
            version,
        )
    if as_json:
        print_response(response)
    else:
        rows = [(a.label, f"{a.probabilities[a.index]:.4g}", f"{a.value:.4g}") for a in response.results]
        print_rows(("action", "probability", "value"), rows)


def _observations(client: Client, arguments: list[str], model: str, version: int) -> list[list[float]]:
    """One observation of these numbers, or the rows of this file."""
    try:
        return [[float(number) for number in arguments]]
    except ValueError:
        if len(arguments) > 1:
            fail(f"{' '.join(arguments)}: give numbers, or one file", WRONG_USAGE)
    path = Path(arguments[0])
    check_files([path])
    card = ready_card(client, model, version, "observation", "observations", "act")
    return read_table(path, card["preprocessing"]["features"])
