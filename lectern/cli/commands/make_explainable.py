"""`lectern make-explainable`: gradients for a model that was exported without them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import TRAIN, command
from lectern.cli.options import EXPORTED, ModelName, ServedVersion
from lectern.cli.output import fail, fail_for_missing, working


@command(TRAIN)
def make_explainable(
    name: ModelName,
    version: ServedVersion = 0,
    repository: Annotated[Path, typer.Option(file_okay=False, help="Directory of models.")] = EXPORTED,
) -> None:
    """Add gradients to an exported version, so that `lectern explain` can use it.

    The network is read from the version's own ONNX file, which does not change. Newly trained models have gradients
    already. A server that has loaded the version uses them after a restart.

    \b
    lectern make-explainable image_classifier
    """
    try:
        from training import TrainingError
        from training.make_explainable import make_explainable as run
    except ImportError as error:
        fail_for_missing("making a model explainable", error, "cpu", "train")
    try:
        with working("making and comparing graphs of gradients"):
            card = run(name, version, repository)
    except TrainingError as error:
        fail(str(error))
    parity = f" (parity {card.parity.max_abs_diff:.1e})" if card.parity else ""
    typer.echo(f"{repository / card.name / str(card.version)} can be explained{parity}")
