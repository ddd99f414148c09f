"""`lectern evaluate`: what served models reach on their test splits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from lectern.cli.connection import Connection
from lectern.cli.output import WRONG_USAGE, fail, fail_for_missing, print_json, show

COLUMNS = ("value", "95 % interval", "target", "n", "best baseline")


def evaluate(
    connection: Connection,
    name: Annotated[
        str | None, typer.Argument(help="Model, e.g. image_classifier.", show_default="with --all, every one")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Evaluate every model that is served.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    card_in: Annotated[
        Path | None,
        typer.Option(
            "--write-card",
            metavar="REPOSITORY",
            help="Complete the card of the newest version there: limits, intervals, each class, calibration.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure a running server's models on their whole test splits, through gRPC.

    Test data is fetched on first use. Exit code 1 if a target is missed. What is trained now has a complete card.

    \b
    lectern evaluate image_classifier
    lectern evaluate --all --json
    lectern evaluate image_classifier --write-card exported
    """
    if (name is None) != every:
        fail("name one model, or give --all", WRONG_USAGE)
    try:
        from google.protobuf.json_format import MessageToDict

        from lectern.card import Card
        from training.evaluate import evaluate as run
        from training.evaluate import write_figures
        from training.main import RECIPES, TrainingError
    except ImportError as error:
        fail_for_missing("evaluating", error, "cpu", "train")
    found = []
    with connection.client() as client:
        served = {model.name for model in client.list_models().models}
        for model in [recipe for recipe in RECIPES if recipe in served] if name is None else [name]:
            try:
                evaluation = run(model, client, partial(_track, model))
                newest = client.get_model(model).model.versions[0]
                if card_in is not None:
                    write_figures(model, newest.version, evaluation, card_in, partial(_track, model))
            except TrainingError as error:
                fail(str(error), WRONG_USAGE)
            card = Card.model_validate(MessageToDict(newest.card))
            for metric in evaluation.metrics:
                found.append((model, metric, {b.name: b.value for b in card.baselines if b.metric == metric.name}))
    if as_json:
        print_json({"metrics": [{"model": m, **metric.model_dump(), "baselines": b} for m, metric, b in found]})
    else:
        table = Table(*(Column(name, overflow="fold") for name in ("model", "metric")), *COLUMNS)
        for model, metric, baselines in found:
            names = sorted(baselines.items(), key=lambda item: abs(item[1] - metric.value))
            best = f"{names[0][1]:.4f} {names[0][0]}" if names else ""
            bounds = metric.interval_text
            table.add_row(model, metric.name, f"{metric.value:.4f}", bounds, metric.target_text, str(metric.n), best)
        show(table)
    if missed := [f"{model} {metric.name}" for model, metric, _ in found if not metric.met]:
        fail(f"target missed: {', '.join(missed)}")


def _track(model: str, items: Iterable[Any], total: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(items, model, total, console=Console(stderr=True), transient=True)
