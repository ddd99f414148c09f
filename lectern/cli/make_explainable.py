"""`lectern make-explainable`: what explaining needs, for a model that was exported without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.output import fail, fail_for_missing


def make_explainable(
    name: Annotated[str, typer.Argument(help="Model, e.g. image_classifier.", show_default=False)],
    version: Annotated[int, typer.Option(min=0, help="0 is the one that is served.")] = 0,
    repository: Annotated[Path, typer.Option(file_okay=False, help="Where its versions are.")] = Path("exported"),
) -> None:
    """Add gradients to an exported version, so that `lectern explain` takes it.

    The network is read out of the version's own ONNX file, which stays as it is. What is trained now has them already.
    A server that has loaded the version takes them up when it starts anew.

    \b
    lectern make-explainable image_classifier
    """
    try:
        from training.explain import make_explainable as run
        from training.main import TrainingError
    except ImportError as error:
        fail_for_missing("making a model explainable", error, "cpu", "train")
    try:
        card = run(name, version, repository)
    except TrainingError as error:
        fail(str(error))
    typer.echo(f"{repository / card.name / str(card.version)} can be explained (parity {card.parity.max_abs_diff:.1e})")
