"""`lectern detect-anomaly`: which pictures look unlike the training data, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection, in_requests
from lectern.cli.files import batches, check_files, named_in_errors, picture_paths
from lectern.cli.options import AsJson, Images, Version, default_model, path_option
from lectern.cli.output import print_response, show_table, yes
from lectern.cli.pictures import Scale, write_picture

if TYPE_CHECKING:
    from lectern.v1.detect_anomaly_pb2 import DetectAnomalyResponse


@command(ASK)
def detect_anomaly(
    connection: Connection,
    files: Images,
    model: Annotated[str, default_model("anomaly_detector")] = "",
    version: Version = 0,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of normal pictures that may be called anomalies, up to 0.5.")
    ] = 0.05,
    heat_map: Annotated[
        Path | None,
        path_option("PATH", "Write a picture of where each looks wrong: a .png for one file, else a directory."),
    ] = None,
    reconstruction: Annotated[
        Path | None,
        path_option("PATH", "Write the pictures as the model rebuilds them: a .png for one file, else a directory."),
    ] = None,
    scale: Scale = 0,
    as_json: AsJson = False,
) -> None:
    """Say which pictures look unlike the model's training data.

    \b
    lectern detect-anomaly shoe.png digit.png
    lectern detect-anomaly digit.png --false-positive-rate 0.01 --heat-map where.png
    lectern detect-anomaly photos/*.png --heat-map maps/ --json
    """
    check_files(files)
    requested = {"heat_map": heat_map, "reconstruction": reconstruction}
    pictures = {name: picture_paths(path, files) for name, path in requested.items() if path}
    with connection.client() as client:

        def ask(batch: tuple[list[Path], list[bytes]], version: int) -> DetectAnomalyResponse:
            paths, images = batch
            with named_in_errors(images=paths):
                return client.detect_anomaly(
                    images,
                    model,
                    version,
                    false_positive_rate=false_positive_rate,
                    include_reconstruction=reconstruction is not None,
                    include_heat_map=heat_map is not None,
                )

        response = in_requests(ask, batches(files), version)
    for name, paths in pictures.items():
        for path, result in zip(paths, response.results, strict=True):
            write_picture(path, getattr(result, name), scale)
    if as_json:
        print_response(response, "file", files)
        return
    rows = [
        (str(file), yes(r.anomalous), f"{r.probability:.1%}", f"{r.score:.4g}", f"{r.threshold:.4g}")
        for file, r in zip(files, response.results, strict=True)
    ]
    show_table(("file", "anomaly", "probability", "score", "threshold"), rows)
