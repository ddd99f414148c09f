"""`lectern publish`: make a release of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lectern import distribution
from lectern.cli.app import TRAIN, command
from lectern.cli.options import path_option
from lectern.cli.output import fail, fail_for_missing, working


@command(TRAIN)
def publish(
    directory: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, metavar="DIR", help="A repository, or one of its models.", show_default=False
        ),
    ],
    output: Annotated[Path, path_option("FILE", "Archive to write, e.g. models.tar.")],
    sign: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Sign with this private key of Ed25519, in PEM.", show_default=False),
    ] = None,
) -> None:
    """Make a release: the versions that are served, with what they need and a manifest of checksums, in one file.

    The same models are the same bytes, whoever publishes them. A signature is a file of its own, with `.sig` at the end
    of its name. `lectern pull` takes a release into another repository.

    \b
    lectern publish exported --output models.tar
    lectern publish exported/image_classifier --output image_classifier-2.tar --sign release.key
    """
    try:
        from artifacts.release import ReleaseError
        from artifacts.release import publish as run
        from artifacts.versions import VersionError

        if sign:
            from artifacts.signatures import signer
    except ImportError as error:
        fail_for_missing("publishing", error, "cpu")
    try:
        with working("writing the release"):
            manifest = run(directory, output, f"lectern {distribution.version()}", signer(sign) if sign else None)
    except (ReleaseError, VersionError) as error:
        fail(str(error))
    for model in manifest.models:
        typer.echo(f"{model.name} {model.version}")
    typer.echo(f"{output} has {len(manifest.files)} files of {manifest.size} bytes")
