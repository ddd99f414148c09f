"""`lectern promote`: choose which versions of a model are served."""

from __future__ import annotations

from typing import Annotated

import typer

from lectern.cli.app import TRAIN, command
from lectern.cli.options import EXPORTED, ModelName, Repository, check_model
from lectern.cli.output import fail, fail_for_missing


@command(TRAIN)
def promote(
    name: ModelName,
    versions: Annotated[
        list[int] | None,
        typer.Argument(min=1, metavar="[VERSION]...", help="Several are served side by side.", show_default="newest"),
    ] = None,
    repository: Repository = EXPORTED,
) -> None:
    """Serve the newest version of a model, or the versions that are named.

    The command writes the version policy of the model's config.pbtxt; running servers follow it without a restart.

    \b
    lectern promote image_classifier        the version that training wrote but did not promote
    lectern promote image_classifier 1      version 1 again
    """
    try:
        from artifacts.versions import VersionError
        from artifacts.versions import promote as run
    except ImportError as error:
        fail_for_missing("promoting", error, "cpu")
    check_model(repository, name)
    try:
        served = run(repository, name, versions or ())
    except VersionError as error:
        fail(str(error))
    typer.echo(f"{name} serves version {' and '.join(map(str, served))}")
