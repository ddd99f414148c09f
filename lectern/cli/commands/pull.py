"""`lectern pull`: take a release into a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern.cli.app import SERVE, command
from lectern.cli.options import EXPORTED
from lectern.cli.output import fail, fail_for_missing, working

MOST_BYTES = 4 * 2**30


@command(SERVE)
def pull(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A file of `lectern publish`, or its address.", show_default=False),
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL", help="Models to take, with those that they stand on.", show_default="all of them"
        ),
    ] = None,
    repository: Annotated[
        Path, typer.Option(file_okay=False, help="Directory of models; made if there is none.")
    ] = EXPORTED,
    public_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Take only what is signed with the key of this public key, in PEM.", show_default=False
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Trust servers that these certificates sign.", show_default="the system's"),
    ] = None,
    most_bytes: Annotated[int, typer.Option(min=1, help="Refuse a release with more.")] = MOST_BYTES,
) -> None:
    """Put the models of a release into a repository; running servers load them without a restart.

    Signature and checksums are verified before a server can see anything of it. Versions that are there already stay,
    so the command may be repeated. A model's config.pbtxt stays as it is: a model that `lectern promote` has pinned to
    a version is not served in the new one until it is promoted.

    \b
    lectern pull https://models.example.com/models.tar --public-key release.pub
    lectern pull models.tar image_classifier --repository other-models
    """
    try:
        from artifacts.pull import pull as run
        from artifacts.release import ReleaseError
        from artifacts.versions import VersionError, served_versions

        if public_key:
            from artifacts.signatures import checker
    except ImportError as error:
        fail_for_missing("pulling", error, "cpu")
    try:
        is_signed = checker(public_key) if public_key else None
        with working(f"fetching and checking {source}"):
            pulled = run(source, repository, most_bytes, models or (), is_signed, tls_ca)
        for model in pulled.models:
            is_served = model.version in served_versions(repository / model.name)
            said = "is new" if model.folder in pulled.new else "was there"
            hint = "" if is_served else ", and is not served: its config.pbtxt asks for others (`lectern promote`)"
            typer.echo(f"{model.name} {model.version} {said}{hint}")
    except (ReleaseError, VersionError) as error:
        fail(str(error))
