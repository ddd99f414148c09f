"""`lectern add`: take a model that was made elsewhere into a repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from lectern.cli.app import SERVE, command
from lectern.cli.files import check_files, read_text
from lectern.cli.options import EXPORTED
from lectern.cli.output import fail, fail_for_missing, working

HOW_TO_CALL = {
    "image": "lectern classify PHOTO.png --model {name}",
    "table": "lectern predict TABLE.csv --model {name}",
    "text": 'lectern search "QUERY" --in FILES --model {name}',
    "raw": "any client of the Open Inference Protocol, e.g. tritonclient",
}


@command(SERVE)
def add(
    path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="What a framework exported.", show_default=False)],
    name: Annotated[str, typer.Option(help="Of the model.", show_default="the file's")] = "",
    kind: Annotated[
        Literal["image", "table", "text", "raw"] | None,
        typer.Option(help="What it takes; raw: tensors alone, for any model.", show_default="by its inputs"),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its classes, a line each, in their order.", show_default=False)
    ] = None,
    features: Annotated[
        str, typer.Option(metavar="A,B,...", help="The columns of a table, in their order.", show_default=False)
    ] = "",
    pixels: Annotated[
        Literal["imagenet", "0..1", "-1..1", "0..255"],
        typer.Option(help="What it was trained on; imagenet: as torchvision normalises."),
    ] = "imagenet",
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The tokenizer.json of a text model.", show_default=False)
    ] = None,
    repository: Annotated[
        Path, typer.Option(file_okay=False, help="Directory of models; made if there is none.")
    ] = EXPORTED,
) -> None:
    """Take an ONNX model into a repository; running servers load it without a restart.

    Its tensors may lie in files beside it. What the model wants done to its input becomes part of its graph: pixels are
    normalised, columns are split, tokens get their mask. Each change is said.

    \b
    lectern add resnet18.onnx --labels imagenet_classes.txt
    lectern add forest.onnx --kind table --features age,income,children
    lectern add all-MiniLM-L6-v2/model.onnx --name minilm --tokenizer all-MiniLM-L6-v2/tokenizer.json
    """
    check_files([file for file in (path, labels, tokenizer) if file])
    try:
        from artifacts.adding import Wish
        from artifacts.adding import add as run
        from artifacts.graph_surgery import AddError
        from artifacts.versions import VersionError
    except ImportError as error:
        fail_for_missing("adding a model", error, "add", "cpu")
    own = name or re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    try:
        wish = Wish(
            own,
            kind,
            tuple(read_text(labels).splitlines()) if labels else (),
            tuple(column.strip() for column in features.split(",")) if features else (),
            pixels,
            tokenizer,
        )
        with working("reading and changing the graph"):
            added = run(path, repository, wish)
    except (AddError, VersionError, OSError) as error:
        fail(str(error))
    typer.echo(f"{added.name} {added.version}, {added.kind}, is in {repository}")
    for change in added.done:
        typer.echo(f"- {change}")
    for what, tensors in (("takes", added.inputs), ("gives", added.outputs)):
        typer.echo(f"- {what} {', '.join(f'{tensor} {shape}' for tensor, shape in tensors.items())}")
    typer.echo(f"call it: {HOW_TO_CALL[added.kind].format(name=added.name)}")
