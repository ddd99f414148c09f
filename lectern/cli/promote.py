"""`lectern promote`: choose which versions of a model are served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.output import fail, fail_for_missing


def promote(
    name: Annotated[str, typer.Argument(help="Model, e.g. image_classifier.", show_default=False)],
    versions: Annotated[
        list[int] | None,
        typer.Argument(min=1, metavar="[VERSION]...", help="Several are served side by side.", show_default="newest"),
    ] = None,
    repository: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Directory of models.")] = Path(
        "exported"
    ),
) -> None:
    """Have servers answer with the newest version of a model, or with the versions that are named.

    It is written to the model's config.pbtxt, as its version policy; running servers follow it by themselves.

    \b
    lectern promote image_classifier        what training wrote but did not promote
    lectern promote image_classifier 1      back to version 1
    """
    try:
        from lectern.versions import VersionError
        from lectern.versions import promote as run
    except ImportError as error:
        fail_for_missing("promoting", error, "cpu")
    try:
        served = run(repository, name, versions or ())
    except VersionError as error:
        fail(str(error))
    typer.echo(f"{name} serves version {' and '.join(map(str, served))}")
