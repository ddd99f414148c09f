"""`lectern evaluate`: the figures of served models on their test splits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from lectern.cli.app import LONG, TRAIN, command
from lectern.cli.completion import recipe
from lectern.cli.connection import Connection
from lectern.cli.options import AsJson
from lectern.cli.output import WRONG_USAGE, fail, fail_for_missing, print_json, show

COLUMNS = ("value", "95 % interval", "target", "n", "best baseline")


@command(TRAIN, timeout=LONG)
def evaluate(
    connection: Connection,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Model, e.g. image_classifier.", show_default="with --all, every one", autocompletion=recipe
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Evaluate every model that is served.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="On the texts in tests/data/fresh, which no training has seen, instead.")
    ] = False,
    as_json: AsJson = False,
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

    Test data is downloaded on first use. Exit code 1 if a target is missed. Newly trained models have a complete card.

    \b
    lectern evaluate image_classifier
    lectern evaluate --all --json
    lectern evaluate image_classifier --write-card exported
    lectern evaluate spam_classifier --fresh
    """
    if (name is None) != every:
        fail("name one model, or give --all", WRONG_USAGE)
    if fresh and card_in is not None:
        fail("a card holds the figures of the test split: leave out --fresh or --write-card", WRONG_USAGE)
    try:
        from google.protobuf.json_format import MessageToDict

        from artifacts.card import Card
        from training import TrainingError, recipes
        from training.evaluate import evaluate as run
        from training.evaluate import write_figures
    except ImportError as error:
        fail_for_missing("evaluating", error, "cpu", "train")
    figures = []
    with connection.client(quiet=True) as client:
        served = {model.name for model in client.list_models().models}
        measurable = recipes.able("evaluate_fresh") if fresh else recipes.names()
        for model in [recipe for recipe in measurable if recipe in served] if name is None else [name]:
            try:
                evaluation = run(model, client, partial(_track, model), fresh)
                newest = client.get_model(model).model.versions[0]
                if card_in is not None:
                    write_figures(model, newest.version, evaluation, card_in, partial(_track, model))
            except TrainingError as error:
                fail(str(error), WRONG_USAGE)
            card = Card.model_validate(MessageToDict(newest.card))
            for metric in evaluation.metrics:
                baselines = {b.name: b.value for b in card.baselines if b.metric == metric.name}
                figures.append((model, metric, baselines))
    if as_json:
        print_json({"metrics": [{"model": m, **metric.model_dump(), "baselines": b} for m, metric, b in figures]})
    else:
        table = Table(*(Column(name, overflow="fold") for name in ("model", "metric")), *COLUMNS)
        for model, metric, baselines in figures:
            names = sorted(baselines.items(), key=lambda item: abs(item[1] - metric.value))
            best = f"{names[0][1]:.4f} {names[0][0]}" if names else ""
            bounds = metric.interval_text
            table.add_row(model, metric.name, f"{metric.value:.4f}", bounds, metric.target_text, str(metric.n), best)
        show(table)
    if missed := [f"{model} {metric.name}" for model, metric, _ in figures if not metric.met]:
        fail(f"target missed: {', '.join(missed)}")


def _track(model: str, items: Iterable[Any], total: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(items, model, total, console=Console(stderr=True), transient=True)
