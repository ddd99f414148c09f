"""`lectern calibrate-detector`: what `lectern defend` detects attacks by, for a model exported without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.output import fail, fail_for_missing


def calibrate_detector(
    name: Annotated[str, typer.Argument(help="Model, e.g. image_classifier.", show_default=False)],
    version: Annotated[int, typer.Option(min=0, help="0 is the one that is served.")] = 0,
    repository: Annotated[Path, typer.Option(file_okay=False, help="Where its versions are.")] = Path("exported"),
) -> None:
    """Measure from which score on an image looks attacked, on clean photos that the model was not trained on.

    What is trained now has this already. A server that has loaded the version takes it up when it starts anew.

    \b
    lectern calibrate-detector image_classifier
    """
    try:
        from training.calibrate import calibrate_detector as run
        from training.main import TrainingError
    except ImportError as error:
        fail_for_missing("calibrating a detector", error, "cpu", "train")
    try:
        card = run(name, version, repository)
    except TrainingError as error:
        fail(str(error))
    for key, value in card.decision.items():
        typer.echo(f"{key} {value:.4g}")
