"""`lectern attack`, `lectern defend`, `lectern robustness`: small changes that fool a model, and what helps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lectern.cli.classify import name_files
from lectern.cli.classify_few_shot import read_examples
from lectern.cli.connection import Connection
from lectern.cli.output import WRONG_USAGE, check_files, fail, print_json, read, shortest, show, targets_of, write

if TYPE_CHECKING:
    from lectern.v1 import defend_pb2 as pb

ATTACKS = "fgsm, i-fgsm, mi-fgsm, di-mi-fgsm, pgd, square"
DEFENCES = "gaussian, median, jpeg, bit-depth, resize-and-pad, autoencoder, robust-model"
MINUTES = 60  # that a table may take

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="PNG, JPEG or WebP files; - is standard input.", show_default=False),
]
Model = Annotated[str, typer.Option(help="One of `lectern models`.", show_default="image_classifier")]
Version = Annotated[int, typer.Option(min=0, help="0 is the latest.")]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Defences = Annotated[
    list[str] | None,
    typer.Option(
        "--defence", metavar="NAME[:key=value,...]", help=f"One of: {DEFENCES}; may be repeated.", show_default="none"
    ),
]


def attack(
    connection: Connection,
    files: Files,
    method: Annotated[
        str, typer.Option(metavar="NAME[:key=value,...]", help=f"One of: {ATTACKS}; parameters as in defend.proto.")
    ] = "pgd",
    epsilon: Annotated[
        float | None, typer.Option(help="Largest change, of 255 for L-inf; L2 takes a share.", show_default="8")
    ] = None,
    wanted: Annotated[
        str | None,
        typer.Option("--as", help="Class that it shall be taken for, by name or index.", show_default="any other"),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="True class of each file.", show_default="what the model says")
    ] = None,
    gradient_of: Annotated[
        str, typer.Option(help="Follow this model's gradients, e.g. proxy_ensemble.", show_default="the model's own")
    ] = "",
    defence: Defences = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write what came out: a .png for one file, else a directory.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each image, its change and what came out, as a PNG.")
    ] = None,
    model: Model = "",
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Change pictures a little so that a model errs, to test one's own models.

    The server's operator has to allow it: lectern serve --allow-attacks.

    \b
    lectern attack cat.png --out fooling.png
    lectern attack cat.png --method mi-fgsm:steps=20 --gradient-of proxy_ensemble --picture attack.png
    lectern attack photos/*.png --as ship --epsilon 4 --out attacked/
    """
    check_files(files)
    targets = targets_of(out, files) if out else []
    with connection.client() as client, _named(files):
        name, parameters = _parsed(method)
        if epsilon is not None:
            parameters["epsilon"] = epsilon if parameters.get("norm") == "l2" else epsilon / 255
        response = client.attack(
            [read(file) for file in files],
            name,
            labels=label or (),
            target=int(wanted) if wanted is not None and wanted.isdecimal() else wanted,
            gradient_of=gradient_of,
            defences=_defences(defence),
            seed=seed,
            include_picture=picture is not None,
            model=model,
            version=version,
            **parameters,
        )
    for path, result in zip(targets, response.results, strict=False):
        write(path, result.image)
    if picture is not None:
        write(picture, response.picture)
    rows = [
        {
            "file": str(file),
            "before": _class(result.before),
            "after": _class(result.after),
            "success": result.success,
            "linf": shortest(result.linf),
            "l2": shortest(result.l2),
        }
        for file, result in zip(files, response.results, strict=True)
    ]
    if as_json:
        print_json({"model": response.model, "version": response.version, "results": rows})
        return
    table = Table("file", "before", "after", "fooled", "largest change", box=None)
    for file, result in zip(files, response.results, strict=True):
        change = f"{round(255 * result.linf)} of 255"
        table.add_row(str(file), _said(result.before), _said(result.after), _yes(result.success), change)
    show(table)


def defend(
    connection: Connection,
    files: Files,
    defence: Defences = None,
    certify: Annotated[bool, typer.Option("--certify", help="Say how far no change can alter the answer.")] = False,
    noise: Annotated[float | None, typer.Option(help="Of --certify, as a share of the range.")] = None,
    samples: Annotated[int | None, typer.Option(help="Of --certify.")] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of clean pictures that may be called attacked, up to 0.5.")
    ] = 0.05,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write what was cleaned: a .png for one file, else a directory.")
    ] = None,
    model: Model = "",
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Clean pictures before a model sees them, and say whether they look attacked.

    \b
    lectern defend fooling.png
    lectern defend fooling.png --defence jpeg:quality=40 --defence median --out cleaned.png
    lectern defend photos/*.png --defence robust-model --certify --json
    """
    check_files(files)
    targets = targets_of(out, files) if out else []
    smoothing = {k: v for k, v in {"noise": noise, "samples": samples}.items() if v is not None}
    if smoothing and not certify:
        fail("--noise and --samples go with --certify", WRONG_USAGE)
    with connection.client() as client, _named(files):
        response = client.defend(
            [read(file) for file in files],
            _defences(defence),
            smoothing=smoothing if certify else None,
            false_positive_rate=false_positive_rate,
            seed=seed,
            model=model,
            version=version,
        )
    for path, result in zip(targets, response.results, strict=False):
        write(path, result.image)
    if as_json:
        results = [_defended(*pair) for pair in zip(files, response.results, strict=True)]
        print_json({"model": response.model, "version": response.version, "results": results})
        return
    table = Table(
        "file", "before", "after", "attacked", "score", *(["certified", "radius"] if certify else []), box=None
    )
    for file, result in zip(files, response.results, strict=True):
        found, proof = result.detection, result.certificate
        attacked = _yes(found.attacked) if found.HasField("attacked") else "?"
        row = [str(file), _said(result.before), _said(result.after), attacked, f"{found.score:.3f}"]
        table.add_row(*row, *([proof.prediction.label, f"{proof.radius:.3f}"] if certify else []))
    show(table)


def robustness(
    connection: Connection,
    photos: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder with one folder of images for each class.")
    ],
    attack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:key=value,...][@MODEL]",
            help=f"One of: {ATTACKS}; by the gradients of MODEL if one is named; may be repeated.",
            show_default="fgsm and pgd",
        ),
    ] = None,
    defence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:key=value,...][+NAME...]",
            help=f"One of: {DEFENCES}, or several together; may be repeated.",
            show_default="none",
        ),
    ] = None,
    aware: Annotated[bool, typer.Option("--aware", help="Add each attack as it is if it knows the defences.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="One of `lectern models`; may be repeated.", show_default="image_classifier"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as a picture to this PNG file.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how often models are right under attacks, and how much defences help.

    \b
    lectern robustness photos --out table.png
    lectern robustness photos --attack pgd:steps=20 --attack di-mi-fgsm@proxy_ensemble --defence jpeg+median
    lectern robustness photos --model image_classifier --model robust_classifier --aware --defence resize-and-pad
    """
    from lectern.requests import evaluated_attack

    images = read_examples(photos)
    cells: list[pb.EvaluateRobustnessResponse] = []
    with connection.client() as client, _named([path for paths in images.values() for path in paths]):
        attacks = []
        for given in attack or ["fgsm", "pgd"]:
            text, _, source = given.partition("@")
            name, parameters = _parsed(text)
            for knows in (False, True) if aware else (False,):
                attacks.append(evaluated_attack(name, gradient_of=source, aware=knows, **parameters))
        chains = [_defences(given.split("+")) for given in defence or ()]
        answers = client.evaluate_robustness(
            {label: [read(path) for path in paths] for label, paths in images.items()},
            attacks,
            chains,
            model or (),
            seed=seed,
            timeout=60 * MINUTES,
        )
        cells.extend(_watched(answers))
    if out is not None:
        write(out, cells[-1].picture)
    if as_json:
        print_json({"n": cells[0].n, "cells": [_cell(cell) for cell in cells]})
        return
    columns = list(dict.fromkeys(cell.defence for cell in cells))
    table = Table("model", "attack", *columns, box=None)
    by_row: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        by_row.setdefault((cell.model, cell.attack), []).append(f"{cell.accuracy:.1%}")
    for row, values in by_row.items():
        table.add_row(*row, *values)
    show(table)


def _watched(answers: Iterator[pb.EvaluateRobustnessResponse]) -> Iterator[pb.EvaluateRobustnessResponse]:
    """The cells, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("cells", total=None)
        for answer in answers:
            progress.update(task, total=answer.total, completed=answer.done)
            yield answer


@contextmanager
def _named(files: Sequence[Path]) -> Iterator[None]:
    """Errors speak of files; what cannot be asked for is wrong usage."""
    from lectern.errors import LecternError

    try:
        yield
    except LecternError as error:
        name_files(error, {"images": list(files)})
        raise
    except ValueError as error:
        fail(str(error), WRONG_USAGE)


def _parsed(text: str) -> tuple[Any, dict[str, Any]]:
    """Name and parameters of `NAME[:key=value,...]`.

    Raises:
        ValueError: a parameter has no value.
    """
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: write parameters as key=value")
        parameters[key.replace("-", "_")] = _value(value)
    return name.replace("-", "_"), parameters


def _value(text: str) -> int | float | str:
    """A number, a fraction as 8/255, or a text."""
    above, _, below = text.partition("/")
    try:
        return int(text) if text.isdecimal() else float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return text


def _defences(given: Sequence[str] | None) -> list[pb.Defence]:
    from lectern.requests import defence

    return [defence(name, **parameters) for name, parameters in map(_parsed, given or ())]


def _said(predicted: pb.PredictedClass) -> str:
    return f"{predicted.label} {predicted.probability:.1%}"


def _class(predicted: pb.PredictedClass) -> dict[str, Any]:
    return {"label": predicted.label, "index": predicted.index, "probability": shortest(predicted.probability)}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _defended(file: Path, result: pb.DefendedImage) -> Mapping[str, Any]:
    found = result.detection
    calibrated = found.HasField("attacked")
    document = {
        "file": str(file),
        "before": _class(result.before),
        "after": _class(result.after),
        "score": shortest(found.score),
        "threshold": shortest(found.threshold) if calibrated else None,
        "attacked": found.attacked if calibrated else None,
    }
    if result.HasField("certificate"):
        proof = result.certificate
        document["certificate"] = {"prediction": _class(proof.prediction), "radius": shortest(proof.radius)}
    return document


def _cell(cell: pb.EvaluateRobustnessResponse) -> dict[str, Any]:
    return {
        "model": cell.model,
        "version": cell.version,
        "attack": cell.attack,
        "defence": cell.defence,
        "accuracy": shortest(cell.accuracy),
    }
