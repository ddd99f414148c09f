"""`lectern explain`, `lectern compare-explanations`, `lectern explain-model`: why models answer as they do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lectern.cli.connection import Connection
from lectern.cli.inputs import medium_of, text_of
from lectern.cli.output import WRONG_USAGE, check_files, fail, print_json, read, shortest, show, write
from lectern.cli.predict import signature
from lectern.cli.rows import table_of
from lectern.kinds import kind_of

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.v1.explain_pb2 import CompareResponse, ExplainResponse

TABLES = ".csv"
TABULAR_MODEL = "covid_regressor"
METHODS = (
    "saliency, gradient-times-input, smooth-grad, integrated-gradients, grad-cam, occlusion, lime, rise, kernel-shap, "
    "attention"
)
TOP = 10

File = Annotated[
    Path | None,
    typer.Argument(help="Picture, recording, text, or CSV table; - is standard input.", show_default=False),
]
Text = Annotated[str | None, typer.Option("--text", help="Explain this text instead of a file.", show_default=False)]
Start = Annotated[float, typer.Option("--from", min=0, help="Seconds: explain what is said of a recording from here.")]
End = Annotated[float, typer.Option("--to", min=0, help="Seconds: to here.", show_default="the end")]
Question = Annotated[str, typer.Option(help="Explain the answer to this question that the text has.")]
Model = Annotated[str, typer.Option(help="One of `lectern models`.", show_default="one that takes the input")]
Version = Annotated[int, typer.Option(min=0, help="0 is the latest.")]
Answer = Annotated[
    str | None, typer.Option("--class", help="What to explain, by name or index.", show_default="the answer")
]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RowNumber = Annotated[int, typer.Option("--row", min=1, help="Which row of a table, from 1.")]


def explain(
    connection: Connection,
    file: File = None,
    method: Annotated[
        str, typer.Option(help=f"One of: {METHODS}.", show_default="integrated-gradients, of a text kernel-shap")
    ] = "",
    answer: Answer = None,
    out: Annotated[Path | None, typer.Option(help="Write the picture to this PNG file; - is standard output.")] = None,
    text: Text = None,
    question: Question = "",
    start: Start = 0,
    end: End = 0,
    row: RowNumber = 1,
    samples: Annotated[int | None, typer.Option(help="Of smooth-grad, lime, rise, kernel-shap.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of integrated-gradients.")] = None,
    noise: Annotated[float | None, typer.Option(help="Of smooth-grad, as a share of the input's range.")] = None,
    layer: Annotated[str | None, typer.Option(help="Of grad-cam.")] = None,
    window: Annotated[int | None, typer.Option(help="Pixels, of occlusion.")] = None,
    stride: Annotated[int | None, typer.Option(help="Pixels, of occlusion.")] = None,
    cells: Annotated[int | None, typer.Option(help="Along an image's side, of lime, rise, kernel-shap.")] = None,
    keep: Annotated[float | None, typer.Option(help="Share of cells in a mask, of rise.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="What stands for nothing: black, white, mean or blur.", show_default="method's")
    ] = None,
    model: Model = "",
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what in an image, a row of a table, a text or speech speaks for the model's answer.

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
    given = {"samples": samples, "steps": steps, "noise": noise, "layer": layer, "window": window, "stride": stride}
    given |= {"cells": cells, "keep": keep, "baseline": baseline}
    with connection.client() as client:
        input_ = _input(client, file, text, question, (start, end), row, model, version)
        method = method or ("kernel-shap" if "text" in input_ else "integrated-gradients")
        try:
            response = client.explain(
                method=_underscored(method),
                target=_target(answer),
                seed=seed,
                **input_,
                **given,  # type: ignore[arg-type]
            )
        except ValueError as error:
            fail(str(error), WRONG_USAGE)
        names = [word.text for word in response.words]
        if "row" in input_:
            names = _names(client, response.model, response.version)
    if out is not None:
        write(out, response.picture)
        if not as_json:
            return
    _print(response, method, names, as_json)


def compare_explanations(
    connection: Connection,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Pictures, recordings, texts, or a table.", show_default=False),
    ],
    method: Annotated[
        list[str] | None, typer.Option(help="As of `lectern explain`; may be repeated.", show_default="all that fit")
    ] = None,
    answer: Answer = None,
    out: Annotated[Path | None, typer.Option(help="Write the sheet of one file to this PNG file.")] = None,
    question: Question = "",
    start: Start = 0,
    end: End = 0,
    row: RowNumber = 1,
    model: Model = "",
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare what methods say of an image, row, text or recording, and how far each can be trusted.

    deletion: the answer's probability while what matters most is taken away, on average; less is better.
    insertion: while it is put back; more is better.
    random weights: likeness with the map of a network that has learned nothing; near 1 is bad.
    Of several files, means are printed.

    \b
    lectern compare-explanations cat.png --out sheet.png
    lectern compare-explanations photos/*.png --method smooth-grad --method integrated-gradients
    """
    check_files(files)
    if out is not None and len(files) > 1:
        fail(f"{out} is one picture: name one file", WRONG_USAGE)
    responses = []
    with connection.client() as client:
        for file in files:
            input_ = _input(client, file, None, question, (start, end), row, model, version)
            methods = [_underscored(name) for name in method or ()]
            try:
                responses.append(client.compare(methods=methods, target=_target(answer), seed=seed, **input_))
            except ValueError as error:
                fail(str(error), WRONG_USAGE)
    if out is not None:
        write(out, responses[0].picture)
        if not as_json:
            return
    figures = _mean_figures(responses)
    if as_json:
        print_json({"model": responses[0].model, "version": responses[0].version, "files": len(files), **figures})
        return
    table = Table("method", "deletion", "insertion", "random weights", "completeness gap", box=None)
    for entry in figures["methods"]:
        gap = entry["completeness_gap"]
        correlation = entry["correlation_with_random_weights"]
        cells = [f"{entry['deletion']:.3f}", f"{entry['insertion']:.3f}"]
        cells += ["" if correlation is None else f"{correlation:.2f}", "" if gap is None else f"{gap:.2%}"]
        table.add_row(entry["method"].replace("_", "-"), *cells)
    show(table)


def explain_model(
    connection: Connection,
    model: Annotated[str, typer.Argument(help="One of `lectern models`.")] = "image_classifier",
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Show what this class looks for; may be repeated.")
    ] = None,
    all_classes: Annotated[bool, typer.Option("--classes", help="Show what each class looks for.")] = False,
    generator: Annotated[str, typer.Option(help="With classes: search among the images of this model.")] = "",
    layer: Annotated[str, typer.Option(help="Show what units of this layer look for.")] = "",
    unit: Annotated[
        list[int] | None, typer.Option(help="Which units; may be repeated.", show_default="0 to 15")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="How long to search.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the picture to this PNG file; - is standard output.")] = None,
    version: Version = 0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what a model has learned: what its layers know, or what its classes or units look for.

    \b
    lectern explain-model image_classifier
    lectern explain-model image_classifier --classes --out classes.png
    lectern explain-model image_classifier --layer blocks.1 --out filters.png
    """
    wanted = [] if all_classes else classes
    if generator and wanted is None:
        fail("--generator goes with --class or --classes", WRONG_USAGE)
    with connection.client() as client:
        try:
            response = client.explain_model(
                model,
                version,
                classes=wanted,
                generator=generator,
                layer=layer,
                units=unit or (),
                steps=steps,
                seed=seed,
            )
        except ValueError as error:
            fail(str(error), WRONG_USAGE)
    if out is not None:
        write(out, response.picture)
        if not as_json:
            return
    found = [{"name": p.label, "start": shortest(p.start), "end": shortest(p.end)} for p in response.preferred]
    probes = [
        {"layer": p.layer, "property": p.property, "accuracy": shortest(p.accuracy), "chance": shortest(p.chance)}
        for p in response.probes
    ]
    if as_json:
        print_json({"model": response.model, "version": response.version, "preferred": found, "probes": probes})
        return
    table = Table(*(probes or found)[0], box=None)
    for entry in probes or found:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in entry.values()))
    show(table)


def _input(
    client: Client,
    file: Path | None,
    text: str | None,
    question: str,
    span: tuple[float, float],
    row: int,
    model: str,
    version: int,
) -> dict[str, Any]:
    """The arguments that say what is explained, of which model; a file is recognised by its content."""
    chosen = {"model": model, "version": version} | ({"question": question} if question else {})
    chosen |= {"span": span} if any(span) else {}
    content = read(file) if file is not None else b""
    if file is not None and (file.suffix.lower() == TABLES or kind_of(content).medium == "table"):
        model = model or TABULAR_MODEL
        version, features, _ = signature(client, model, version)
        rows = table_of(file, content, features)
        if row > len(rows):
            fail(f"{file}: has {len(rows)} rows, not {row}", WRONG_USAGE)
        return {**chosen, "row": rows[row - 1], "model": model, "version": version}
    if file is not None:
        medium = medium_of(file, content)
        return {**chosen, medium: text_of(file, content) if medium == "text" else content}
    return {**chosen, "text": text}


def _names(client: Client, model: str, version: int) -> list[str]:
    return signature(client, model, version)[1]


def _target(given: str | None) -> int | str | None:
    return int(given) if given is not None and given.isdecimal() else given


def _underscored(method: str) -> Any:
    return method.replace("-", "_")


def _print(response: ExplainResponse, method: str, names: Sequence[str], as_json: bool) -> None:
    import numpy as np

    said, found = response.prediction, response.attribution
    values = np.frombuffer(found.values, "<f4").reshape(tuple(found.shape))
    document: dict[str, Any] = {
        "model": response.model,
        "version": response.version,
        "method": method,
        "target": said.label,
        "value": shortest(said.value),
        "probability": shortest(said.probability) if said.HasField("probability") else None,
        "completeness_gap": shortest(response.completeness_gap) if response.HasField("completeness_gap") else None,
    }
    if as_json:
        words = [{"text": w.text, "start": w.start, "end": w.end, "in_question": w.in_question} for w in response.words]
        parts = {"words": words} if words else {}
        values_ = [shortest(v) for v in values.ravel().tolist()]
        print_json({**document, "shape": list(found.shape), "values": values_, **parts})
        return
    for name, value in document.items():
        if value is not None:
            show(f"{name.replace('_', ' ')}: {value}")
    if names:
        table = Table("word" if response.words else "feature", "contribution", box=None)
        for index in np.argsort(-np.abs(values))[:TOP]:
            table.add_row(names[index], f"{values[index]:+.4g}")
        show(table)
    else:
        show("the map is a picture: --out why.png")


def _mean_figures(responses: Sequence[CompareResponse]) -> dict[Literal["methods"], list[dict[str, Any]]]:
    """Of each method, its figures' means over all files."""
    found = []
    for entries in zip(*(response.explanations for response in responses), strict=True):
        row: dict[str, Any] = {"method": entries[0].method}
        for name in ("deletion", "insertion", "correlation_with_random_weights", "completeness_gap"):
            has = name in ("deletion", "insertion") or all(entry.HasField(name) for entry in entries)
            row[name] = shortest(fmean(getattr(entry, name) for entry in entries)) if has else None
        found.append(row)
    return {"methods": found}
