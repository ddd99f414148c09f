"""`lectern detect-anomaly`: which pictures look wrong, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lectern.cli.classify import batches, name_files
from lectern.cli.connection import Connection
from lectern.cli.output import WRONG_USAGE, check_files, fail, print_json, shortest, show, targets_of

if TYPE_CHECKING:
    from lectern.v1.detect_anomaly_pb2 import AnomalyDetection


def detect_anomaly(
    connection: Connection,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="PNG, JPEG or WebP files; - is standard input.", show_default=False),
    ],
    model: Annotated[str, typer.Option(help="One of `lectern models`.", show_default="anomaly_detector")] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of normal pictures that may be called anomalies, up to 0.5.")
    ] = 0.05,
    heat_map: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write where each looks wrong: a .png for one file, else a directory."),
    ] = None,
    reconstruction: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write each as the model rebuilds it, likewise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say which pictures look unlike what the model was trained on.

    \b
    lectern detect-anomaly shoe.png digit.png
    lectern detect-anomaly digit.png --false-positive-rate 0.01 --heat-map where.png
    lectern detect-anomaly photos/*.png --heat-map maps/ --json
    """
    check_files(files)
    pictures = {"heat_map": heat_map, "reconstruction": reconstruction}
    targets = {name: targets_of(path, files) for name, path in pictures.items() if path}
    results: list[AnomalyDetection] = []
    answered_by: dict[str, Any] = {}
    with connection.client() as client:
        from lectern.errors import LecternError

        for paths, images in batches(files):
            try:
                response = client.detect_anomaly(
                    images,
                    model,
                    version or answered_by.get("version", 0),
                    false_positive_rate=false_positive_rate,
                    include_reconstruction="reconstruction" in targets,
                    include_heat_map="heat_map" in targets,
                )
            except LecternError as error:
                name_files(error, {"images": paths})
                raise
            answered_by = {"model": response.model, "version": response.version}
            results += response.results
    for name, written in targets.items():
        for path, result in zip(written, results, strict=True):
            _write(path, getattr(result, name))
    if as_json:
        print_json({**answered_by, "results": [_as_dict(*pair) for pair in zip(files, results, strict=True)]})
        return
    table = Table("file", "anomaly", "probability", "score", "threshold", box=None)
    for file, result in zip(files, results, strict=True):
        decision = "yes" if result.anomalous else "no"
        numbers = (f"{result.probability:.1%}", f"{result.score:.4g}", f"{result.threshold:.4g}")
        table.add_row(str(file), decision, *numbers)
    show(table)


def _as_dict(file: Path, result: AnomalyDetection) -> dict[str, Any]:
    return {
        "file": str(file),
        "anomalous": result.anomalous,
        "probability": shortest(result.probability),
        "score": shortest(result.score),
        "threshold": shortest(result.threshold),
    }


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path}: {error.strerror}", WRONG_USAGE)
