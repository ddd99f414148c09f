"""`lectern explain`, `lectern compare-explanations`, `lectern explain-model`: why models answer as they do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.app import ASK, LONG, LONGEST, command
from lectern.cli.cards import tabular_card
from lectern.cli.completion import model as complete_model
from lectern.cli.completion import one_of
from lectern.cli.connection import Connection
from lectern.cli.files import check_files, medium_of, read, text_of
from lectern.cli.options import AsJson, Seed, Version, class_or_index, default_model, path_option, wrong_arguments
from lectern.cli.output import WRONG_USAGE, as_document, fail, print_json, print_response, show, show_table
from lectern.cli.pictures import Scale, write_picture
from lectern.cli.rows import table_of
from lectern.kinds import kind_of

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.explain_pb2 import CompareResponse, ExplainResponse

TABLE_SUFFIX = ".csv"
TABULAR_MODEL = "covid_regressor"
METHODS = (
    "saliency, gradient-times-input, smooth-grad, integrated-gradients, grad-cam, occlusion, lime, rise, kernel-shap, "
    "attention"
)
COMPLETE = one_of(METHODS.split(", "))
TOP = 10
FIGURES = {"deletion": ".3f", "insertion": ".3f", "correlation_with_random_weights": ".2f", "completeness_gap": ".2%"}

File = Annotated[
    Path | None,
    typer.Argument(help="Picture, recording, text, or CSV table; - is standard input.", show_default=False),
]
Text = Annotated[str | None, typer.Option("--text", help="Explain this text instead of a file.", show_default=False)]
Start = Annotated[float, typer.Option("--from", min=0, help="Seconds: explain a recording from here.")]
End = Annotated[float, typer.Option("--to", min=0, help="Seconds: to here.", show_default="the end")]
Question = Annotated[str, typer.Option(help="Explain the answer of the text to this question.")]
Model = Annotated[str, default_model("one that takes the input")]
Target = Annotated[
    str | None, typer.Option("--class", help="Class to explain, by name or index.", show_default="the answer")
]
RowNumber = Annotated[int, typer.Option("--row", min=1, help="Which row of a table, from 1.")]
Picture = Annotated[
    Path | None, path_option("FILE", "Write the picture to this PNG file; - is standard output.", "--out")
]


@command(ASK, timeout=LONG)
def explain(
    connection: Connection,
    file: File = None,
    method: Annotated[
        str,
        typer.Option(
            help=f"One of: {METHODS}.",
            show_default="integrated-gradients, of a text kernel-shap",
            autocompletion=COMPLETE,
        ),
    ] = "",
    target_class: Target = None,
    out: Picture = None,
    scale: Scale = 0,
    text: Text = None,
    question: Question = "",
    start: Start = 0,
    end: End = 0,
    row: RowNumber = 1,
    samples: Annotated[
        int | None, typer.Option(help="Of smooth-grad, lime, rise, kernel-shap.", show_default="the method's")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of integrated-gradients.")] = None,
    noise: Annotated[float | None, typer.Option(help="Of smooth-grad, as a share of the input's range.")] = None,
    layer: Annotated[str | None, typer.Option(help="Of grad-cam.")] = None,
    window: Annotated[int | None, typer.Option(help="Pixels, of occlusion.")] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels, of occlusion.")] = None,
    cells: Annotated[int | None, typer.Option(help="Along an image's side, of lime, rise, kernel-shap.")] = None,
    keep: Annotated[float | None, typer.Option(help="Share of cells in a mask, of rise.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="What replaces a hidden part: black, white, mean or blur.", show_default="the method's"),
    ] = None,
    model: Model = "",
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say which parts of an image, a row of a table, a text or speech led to the model's answer.

    Parameters have the method's default unless given. Methods that follow gradients are not for texts.

    \b
    lectern explain cat.png --out why.png
    lectern explain cat.png --method smooth-grad --samples 100 --class dog --out why-dog.png
    lectern explain survey.csv --row 3 --method kernel-shap
    lectern explain --text "What a lovely film!" --out why.png
    lectern explain story.txt --question "Who found the boat?" --method occlusion
    lectern explain speech.wav --from 0.4 --to 0.5 --out why.png
    """
    if (file is None) == (text is None):
        fail("name a file, or give --text, and one of them", WRONG_USAGE)
    if file is not None:
        check_files([file])
    parameters = {"samples": samples, "steps": steps, "noise": noise, "layer": layer, "window": window}
    parameters |= {"stride": stride, "cells": cells, "keep": keep, "baseline": baseline}
    with connection.client() as client, wrong_arguments():
        explained = _explained(client, file, text, question, (start, end), row, model, version)
        method = method or ("kernel-shap" if "text" in explained else "integrated-gradients")
        response = client.explain(
            method=_underscored(method),
            target=class_or_index(target_class),
            seed=seed,
            **explained,
            **parameters,  # type: ignore[arg-type]
        )
        names = [word.text for word in response.words]
        if "row" in explained:
            names = tabular_card(client, response.model, response.version)["preprocessing"]["features"]
    if out is not None:
        write_picture(out, response.picture, scale)
        if not as_json:
            return
    _print_explanation(response, method, names, as_json)


@command(ASK, timeout=LONGEST)
def compare_explanations(
    connection: Connection,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Pictures, recordings, texts, or a table.", show_default=False),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="As of `lectern explain`; may be repeated.", show_default="all that fit", autocompletion=COMPLETE
        ),
    ] = None,
    target_class: Target = None,
    out: Annotated[Path | None, path_option("FILE", "Write the picture of one file to this PNG file.")] = None,
    scale: Scale = 0,
    question: Question = "",
    start: Start = 0,
    end: End = 0,
    row: RowNumber = 1,
    model: Model = "",
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare several methods on an image, row, text or recording, and measure how far each can be trusted.

    deletion: mean probability of the answer while the most important parts are removed; less is better.
    insertion: the same while they are put back; more is better.
    random weights: correlation with the explanation of a network that has learned nothing; near 1 is bad.
    For several files, means are printed.

    \b
    lectern compare-explanations cat.png --out sheet.png
    lectern compare-explanations photos/*.png --method smooth-grad --method integrated-gradients
    """
    check_files(files)
    if out is not None and len(files) > 1:
        fail(f"{out} is one picture: name one file", WRONG_USAGE)
    methods = [_underscored(name) for name in method or ()]
    responses = []
    with connection.client() as client, wrong_arguments():
        for file in files:
            explained = _explained(client, file, None, question, (start, end), row, model, version)
            responses.append(
                client.compare(methods=methods, target=class_or_index(target_class), seed=seed, **explained)
            )
    if out is not None:
        write_picture(out, responses[0].picture, scale)
        if not as_json:
            return
    figures = _mean_figures(responses)
    if as_json:
        answered = {"model": responses[0].model, "version": responses[0].version}
        print_json({**answered, "files": len(files), "methods": figures})
        return
    rows = [
        [entry["method"].replace("_", "-"), *(_cell(entry[name], style) for name, style in FIGURES.items())]
        for entry in figures
    ]
    show_table(("method", "deletion", "insertion", "random weights", "completeness gap"), rows)


@command(ASK, timeout=LONG)
def explain_model(
    connection: Connection,
    model: Annotated[
        str, typer.Argument(help="One of `lectern models`.", autocompletion=complete_model)
    ] = "image_classifier",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Show images that this class answers to; may be repeated.")
    ] = None,
    all_classes: Annotated[bool, typer.Option("--classes", help="Show them for each class.")] = False,
    generator: Annotated[str, typer.Option(help="With classes: search among the images of this model.")] = "",
    layer: Annotated[str, typer.Option(help="Show images that units of this layer answer to.")] = "",
    unit: Annotated[
        list[int] | None, typer.Option(help="Which units; may be repeated.", show_default="0 to 15")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the search.")] = None,
    out: Picture = None,
    scale: Scale = 0,
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what a model has learned: what its layers know, or which images its classes or units answer to.

    \b
    lectern explain-model image_classifier
    lectern explain-model image_classifier --classes --out classes.png
    lectern explain-model image_classifier --layer blocks.1 --out filters.png
    """
    chosen = [] if all_classes else classes
    if generator and chosen is None:
        fail("--generator goes with --class or --classes", WRONG_USAGE)
    with connection.client() as client, wrong_arguments():
        response = client.explain_model(
            model,
            version,
            classes=chosen,
            generator=generator,
            layer=layer,
            units=unit or (),
            steps=steps,
            seed=seed,
        )
    if out is not None:
        write_picture(out, response.picture, scale)
        if not as_json:
            return
    if as_json:
        print_response(response)
        return
    document = as_document(response)
    entries = document["probes"] or document["preferred"]
    show_table(list(entries[0]), [[_cell(value, ".3g") for value in entry.values()] for entry in entries])


def _explained(
    client: Client,
    file: Path | None,
    text: str | None,
    question: str,
    span: tuple[float, float],
    row: int,
    model: str,
    version: int,
) -> dict[str, Any]:
    """Arguments of a client's method: the explained input and the model. A file is recognised by its content."""
    arguments: dict[str, Any] = {"model": model, "version": version}
    arguments |= {"question": question} if question else {}
    arguments |= {"span": span} if any(span) else {}
    if file is None:
        return {**arguments, "text": text}
    content = read(file)
    if file.suffix.lower() != TABLE_SUFFIX and kind_of(content).medium != "table":
        medium = medium_of(file, content)
        return {**arguments, medium: text_of(file, content) if medium == "text" else content}
    card = tabular_card(client, model or TABULAR_MODEL, version)
    rows = table_of(file, content, card["preprocessing"]["features"])
    if row > len(rows):
        fail(f"{file}: has {len(rows)} rows, not {row}", WRONG_USAGE)
    return {**arguments, "row": rows[row - 1], "model": model or TABULAR_MODEL, "version": card["version"]}


def _underscored(method: str) -> Any:
    return method.replace("-", "_")


def _print_explanation(response: ExplainResponse, method: str, names: Sequence[str], as_json: bool) -> None:
    """Print the answer that is explained, and the contributions of words or features by `names`."""
    import numpy as np

    values = np.frombuffer(response.attribution.values, "<f4").reshape(tuple(response.attribution.shape))
    document = as_document(response)
    prediction = document["prediction"]
    summary: dict[str, Any] = {
        "model": response.model,
        "version": response.version,
        "method": method,
        "target": prediction["label"],
        "value": prediction["value"],
        "probability": prediction.get("probability"),
        "completeness_gap": document.get("completeness_gap"),
    }
    if as_json:
        words = {"words": document["words"]} if document["words"] else {}
        numbers = [_shortest(value) for value in values.ravel().tolist()]
        print_json({**summary, "shape": document["attribution"]["shape"], "values": numbers, **words})
        return
    for name, value in summary.items():
        if value is not None:
            show(f"{name.replace('_', ' ')}: {value}")
    if names:
        largest = np.argsort(-np.abs(values))[:TOP]
        rows = [(names[index], f"{values[index]:+.4g}") for index in largest]
        show_table(("word" if response.words else "feature", "contribution"), rows)
    else:
        show("the map is a picture: --out why.png")


def _mean_figures(responses: Sequence[CompareResponse]) -> list[dict[str, Any]]:
    """The mean of each method's figures over all files; None where a file has no such figure."""
    figures = []
    for entries in zip(*(response.explanations for response in responses), strict=True):
        documents = [as_document(entry) for entry in entries]
        means = {
            name: _shortest(fmean(document[name] for document in documents))
            if all(name in d for d in documents)
            else None
            for name in FIGURES
        }
        figures.append({"method": entries[0].method, **means})
    return figures


def _cell(value: float | int | str | None, style: str) -> str:
    return f"{value:{style}}" if isinstance(value, float) else str("" if value is None else value)


def _shortest(value: float) -> float:
    """A float32 without the digits that a double adds."""
    return float(f"{value:.7g}")
