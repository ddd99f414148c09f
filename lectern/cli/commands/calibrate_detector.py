"""`lectern calibrate-detector`: the thresholds of `lectern defend`, for a model that was exported without them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import TRAIN, command
from lectern.cli.options import EXPORTED, ModelName, ServedVersion
from lectern.cli.output import fail, fail_for_missing, working


@command(TRAIN)
def calibrate_detector(
    name: ModelName,
    version: ServedVersion = 0,
    repository: Annotated[Path, typer.Option(file_okay=False, help="Directory of models.")] = EXPORTED,
) -> None:
    """Measure the score above which an image looks attacked, on clean photos that the model was not trained on.

    Newly trained models have it already. A server that has loaded the version uses it after a restart.

    \b
    lectern calibrate-detector image_classifier
    """
    try:
        from training import TrainingError
        from training.calibrate_detector import calibrate_detector as run
    except ImportError as error:
        fail_for_missing("calibrating a detector", error, "cpu", "train")
    try:
        with working("attacking and measuring photos"):
            card = run(name, version, repository)
    except TrainingError as error:
        fail(str(error))
    for key, value in card.decision.items():
        typer.echo(f"{key} {value:.4g}")
