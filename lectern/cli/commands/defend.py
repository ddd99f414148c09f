"""`lectern attack`, `lectern defend`, `lectern robustness`: attacks on image classifiers, and defences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.app import ASK, LONG, LONGEST, command
from lectern.cli.completion import model as complete_model
from lectern.cli.completion import one_of
from lectern.cli.connection import Connection
from lectern.cli.files import check_files, example_files, named_in_errors, picture_paths, read_all
from lectern.cli.options import (
    AsJson,
    Images,
    Seed,
    Version,
    class_or_index,
    default_model,
    path_option,
    wrong_arguments,
)
from lectern.cli.output import WRONG_USAGE, as_document, fail, print_json, print_response, show_table, yes
from lectern.cli.pictures import Scale, write_picture

if TYPE_CHECKING:
    from lectern.v1 import defend_pb2 as pb

ATTACKS = "fgsm, i-fgsm, mi-fgsm, di-mi-fgsm, pgd, square"
DEFENCES = "gaussian, median, jpeg, bit-depth, resize-and-pad, autoencoder, robust-model"
COMPLETE_ATTACK = one_of(ATTACKS.split(", "))
CELL_FIELDS = ("model", "version", "attack", "defence", "accuracy")

Model = Annotated[str, default_model("image_classifier")]
Defences = Annotated[
    list[str] | None,
    typer.Option(
        "--defence",
        metavar="NAME[:key=value,...]",
        help=f"One of: {DEFENCES}; may be repeated.",
        show_default="none",
        autocompletion=one_of(DEFENCES.split(", ")),
    ),
]


@command(ASK, timeout=LONG)
def attack(
    connection: Connection,
    files: Images,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME[:key=value,...]",
            help=f"One of: {ATTACKS}; parameters as in defend.proto.",
            autocompletion=COMPLETE_ATTACK,
        ),
    ] = "pgd",
    epsilon: Annotated[
        float | None, typer.Option(help="Largest change: of 255 for L-inf, a share for L2.", show_default="8")
    ] = None,
    target_class: Annotated[
        str | None,
        typer.Option("--as", help="Class that the model should answer, by name or index.", show_default="any other"),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="True class of each file.", show_default="the model's answer")
    ] = None,
    gradient_of: Annotated[
        str, typer.Option(help="Follow this model's gradients, e.g. proxy_ensemble.", show_default="the model's own")
    ] = "",
    defence: Defences = None,
    out: Annotated[
        Path | None, path_option("PATH", "Write the attacked pictures: a .png for one file, else a directory.")
    ] = None,
    picture: Annotated[
        Path | None, path_option("FILE", "Write each image, its change and the attacked image, as one PNG.")
    ] = None,
    scale: Scale = 0,
    model: Model = "",
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Change pictures a little so that a model errs, to test your own models.

    The server's operator has to allow it: lectern serve --allow-attacks.

    \b
    lectern attack cat.png --out fooling.png
    lectern attack cat.png --method mi-fgsm:steps=20 --gradient-of proxy_ensemble --picture attack.png
    lectern attack photos/*.png --as ship --epsilon 4 --out attacked/
    """
    check_files(files)
    paths = picture_paths(out, files) if out else []
    with connection.client() as client, named_in_errors(images=files), wrong_arguments():
        name, parameters = _parsed(method)
        if epsilon is not None:
            parameters["epsilon"] = epsilon if parameters.get("norm") == "l2" else epsilon / 255
        response = client.attack(
            read_all(files),
            name,
            labels=label or (),
            target=class_or_index(target_class),
            gradient_of=gradient_of,
            defences=_defences(defence),
            seed=seed,
            include_picture=picture is not None,
            model=model,
            version=version,
            **parameters,
        )
    for path, result in zip(paths, response.results, strict=False):
        write_picture(path, result.image, scale)
    if picture is not None:
        write_picture(picture, response.picture, scale)
    if as_json:
        print_response(response, "file", files)
        return
    rows = [
        (str(file), _cell(r.before), _cell(r.after), yes(r.success), f"{round(255 * r.linf)} of 255")
        for file, r in zip(files, response.results, strict=True)
    ]
    show_table(("file", "before", "after", "fooled", "largest change"), rows)


@command(ASK, timeout=LONG)
def defend(
    connection: Connection,
    files: Images,
    defence: Defences = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Prove how large a change cannot alter the answer.")
    ] = False,
    noise: Annotated[float | None, typer.Option(help="Of --certify, as a share of the range.")] = None,
    samples: Annotated[int | None, typer.Option(help="Of --certify.")] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of clean pictures that may be called attacked, up to 0.5.")
    ] = 0.05,
    out: Annotated[
        Path | None, path_option("PATH", "Write the cleaned pictures: a .png for one file, else a directory.")
    ] = None,
    scale: Scale = 0,
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
    paths = picture_paths(out, files) if out else []
    smoothing = {key: value for key, value in {"noise": noise, "samples": samples}.items() if value is not None}
    if smoothing and not certify:
        fail("--noise and --samples go with --certify", WRONG_USAGE)
    with connection.client() as client, named_in_errors(images=files), wrong_arguments():
        response = client.defend(
            read_all(files),
            _defences(defence),
            smoothing=smoothing if certify else None,
            false_positive_rate=false_positive_rate,
            seed=seed,
            model=model,
            version=version,
        )
    for path, result in zip(paths, response.results, strict=False):
        write_picture(path, result.image, scale)
    if as_json:
        document = as_document(response)
        pairs = zip(files, document["results"], strict=True)
        document["results"] = [{"file": str(file), **_with_detection(result)} for file, result in pairs]
        print_json(document)
        return
    rows = []
    for file, result in zip(files, response.results, strict=True):
        detection, certificate = result.detection, result.certificate
        attacked = yes(detection.attacked) if detection.HasField("attacked") else "?"
        row = [str(file), _cell(result.before), _cell(result.after), attacked, f"{detection.score:.3f}"]
        rows.append([*row, *([certificate.prediction.label, f"{certificate.radius:.3f}"] if certify else [])])
    show_table(["file", "before", "after", "attacked", "score", *(["certified", "radius"] if certify else [])], rows)


@command(ASK, timeout=LONGEST)
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
            autocompletion=COMPLETE_ATTACK,
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
    aware: Annotated[bool, typer.Option("--aware", help="Add each attack in a form that knows the defences.")] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="One of `lectern models`; may be repeated.",
            show_default="image_classifier",
            autocompletion=complete_model,
        ),
    ] = None,
    out: Annotated[Path | None, path_option("FILE", "Write the table as a picture to this PNG file.")] = None,
    scale: Scale = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the accuracy of models under attacks and behind defences.

    \b
    lectern robustness photos --out table.png
    lectern robustness photos --attack pgd:steps=20 --attack di-mi-fgsm@proxy_ensemble --defence jpeg+median
    lectern robustness photos --model image_classifier --model robust_classifier --aware --defence resize-and-pad
    """
    files = example_files(photos)
    images = [path for paths in files.values() for path in paths]
    contents = iter(read_all(images))
    photos_by_class = {label: [next(contents) for _ in paths] for label, paths in files.items()}
    with connection.client(quiet=True) as client, named_in_errors(images=images), wrong_arguments():
        responses = client.evaluate_robustness(
            photos_by_class,
            _evaluated_attacks(attack or ["fgsm", "pgd"], aware),
            [_defences(chain.split("+")) for chain in defence or ()],
            model or (),
            seed=seed,
        )
        cells = list(_with_progress(responses))
    if out is not None:
        write_picture(out, cells[-1].picture, scale)
    if as_json:
        documents = [as_document(cell) for cell in cells]
        print_json({"n": cells[0].n, "cells": [{name: cell[name] for name in CELL_FIELDS} for cell in documents]})
        return
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        rows.setdefault((cell.model, cell.attack), []).append(f"{cell.accuracy:.1%}")
    columns = ["model", "attack", *dict.fromkeys(cell.defence for cell in cells)]
    show_table(columns, [[*names, *accuracies] for names, accuracies in rows.items()])


def _with_progress(cells: Iterator[pb.EvaluateRobustnessResponse]) -> Iterator[pb.EvaluateRobustnessResponse]:
    """The cells, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("cells", total=None)
        for cell in cells:
            progress.update(task, total=cell.total, completed=cell.done)
            yield cell


def _evaluated_attacks(arguments: Sequence[str], aware: bool) -> list[pb.EvaluatedAttack]:
    """The attacks of `NAME[:key=value,...][@MODEL]`, with `aware` each in two forms."""
    from lectern.methods import evaluated_attack

    attacks = []
    for argument in arguments:
        text, _, model = argument.partition("@")
        name, parameters = _parsed(text)
        attacks += [
            evaluated_attack(name, gradient_of=model, aware=knows, **parameters)
            for knows in ((False, True) if aware else (False,))
        ]
    return attacks


def _defences(arguments: Sequence[str] | None) -> list[pb.Defence]:
    from lectern.methods import defence

    return [defence(name, **parameters) for name, parameters in map(_parsed, arguments or ())]


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
    """A number, a fraction such as 8/255, or a text."""
    numerator, _, denominator = text.partition("/")
    try:
        return int(text) if text.isdecimal() else float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return text


def _with_detection(result: dict[str, Any]) -> dict[str, Any]:
    """A result for JSON with the fields of its detection; an uncalibrated model has neither threshold nor decision."""
    return {"threshold": None, "attacked": None, **result.pop("detection"), **result}


def _cell(predicted: pb.PredictedClass) -> str:
    return f"{predicted.label} {predicted.probability:.1%}"
