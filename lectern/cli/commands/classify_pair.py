"""`lectern classify-pair`: whether a sentence follows from another."""

from __future__ import annotations

from typing import Annotated

import typer

from lectern.cli.app import ASK, command
from lectern.cli.commands.classify import show_classes
from lectern.cli.connection import Connection
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import print_response, show_notices


@command(ASK)
def classify_pair(
    connection: Connection,
    premise: Annotated[str, typer.Argument(help="A sentence that is taken to be true.")],
    hypothesis: Annotated[str, typer.Argument(help="One that may follow from it.")],
    model: Annotated[str, default_model("entailment_classifier")] = "",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether a sentence follows from another, contradicts it, or neither.

    \b
    lectern classify-pair "A man plays a guitar on stage." "A man makes music."
    lectern classify-pair "Two dogs run over a field." "The dogs are asleep."
    """
    with connection.client() as client:
        response = client.classify_pair([(premise, hypothesis)], model, version)
    show_notices(response.results[0].notices)
    if as_json:
        print_response(response)
    else:
        show_classes([hypothesis], response.results)
