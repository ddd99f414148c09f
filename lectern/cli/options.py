"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from lectern.cli import completion
from lectern.cli.output import WRONG_USAGE, fail
from lectern.names import meant

MODEL_HELP = "One of `lectern models`."
MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1


def default_model(name: str) -> Any:
    """The option --model where an empty name is the capability's default, which is called `name`."""
    return typer.Option(help=MODEL_HELP, show_default=name, autocompletion=completion.model)


def path_option(metavar: str, text: str, name: str | None = None) -> Any:
    """An option for a file or directory to write."""
    return typer.Option(*([name] if name else []), metavar=metavar, help=text, show_default=False)


Images = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="PNG, JPEG or WebP files; - is standard input.", show_default=False),
]
Model = Annotated[str, typer.Option(help=MODEL_HELP, autocompletion=completion.model)]
Version = Annotated[int, typer.Option(min=0, help="0 is the latest.")]
TopK = Annotated[int, typer.Option(min=0, help="Classes to print for each file, best first; 0 = all.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_UINT64, help="Of all random numbers.")]
Sample = Annotated[bool, typer.Option("--sample", help="Draw actions by their probability.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ServedVersion = Annotated[int, typer.Option(min=0, help="0 is the one that is served.")]
ModelName = Annotated[
    str, typer.Argument(help="Model, e.g. image_classifier.", show_default=False, autocompletion=completion.recipe)
]
Repository = Annotated[Path, typer.Option(exists=True, file_okay=False, help="Directory of models.")]
EXPORTED = Path("exported")


def check_model(repository: Path, name: str) -> None:
    """End with WRONG_USAGE if a repository has no directory of a model."""
    if not (repository / name).is_dir():
        names = sorted(path.name for path in repository.iterdir() if path.is_dir())
        fail(f"{repository} has no model {name!r}{meant(name, names)}", WRONG_USAGE)


def class_or_index(argument: str | None) -> int | str | None:
    """A class that is named or numbered on the command line."""
    return int(argument) if argument is not None and argument.isdecimal() else argument


@contextmanager
def wrong_arguments() -> Iterator[None]:
    """End with WRONG_USAGE and the message of a `ValueError` inside: arguments that no request can be built from.

    Raises:
        typer.Exit: there was one.
    """
    try:
        yield
    except ValueError as error:
        fail(str(error), WRONG_USAGE)
