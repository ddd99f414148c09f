"""What commands read and print: files, failures, JSON, tables, numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console, RenderableType

from lectern.distribution import how_to_install

FAILED = 1
WRONG_USAGE = 2
STDIN = STDOUT = Path("-")


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print what was wrong to stderr and end with `code`.

    Raises:
        typer.Exit: always.
    """
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def fail_for_missing(what: str, error: ImportError, *extras: str) -> NoReturn:
    """End because `what` needs a package that is missing: one of `extras`, or of a checkout where only the client is.

    Raises:
        typer.Exit: always.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("services", "training"):
        image = " or its image (deploy/Dockerfile)" if package == "services" else ""
        fail(f"{what} needs a checkout of Lectern{image}: the package `{package}` is not installed here")
    fail(f"{what} needs more packages ({error}): {how_to_install(*extras)}")


def check_files(paths: Sequence[Path]) -> None:
    """See that each is a file or `-`, standard input, before any work is done.

    Raises:
        typer.Exit: one is not.
    """
    for path in paths:
        if path != STDIN and not path.is_file():
            fail(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}", WRONG_USAGE)


def read(path: Path) -> bytes:
    """The content of a file, or of standard input for `-`.

    Raises:
        typer.Exit: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", WRONG_USAGE)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or of standard input for `-`, without the mark that some editors begin a file with.

    Raises:
        typer.Exit: it cannot be read, or is not UTF-8.
    """
    try:
        return read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"{path}: not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x})", WRONG_USAGE)


def check_text(text: str) -> None:
    """See that an argument is text: bytes of the command line that are not UTF-8 come as surrogates.

    Raises:
        typer.Exit: it is not.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fail(f"{text!a}: not UTF-8 text (character {error.start})", WRONG_USAGE)


def write(path: Path, content: bytes) -> None:
    """Write a file and say where it is, or write to standard output for `-`.

    Raises:
        typer.Exit: it cannot be written.
    """
    if path == STDOUT:
        sys.stdout.buffer.write(content)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path}: {error.strerror}", WRONG_USAGE)
    typer.echo(f"wrote {path}", err=True)  # standard output is for the answer, perhaps a document


def targets_of(out: Path, files: list[Path]) -> list[Path]:
    """Where the pictures of `files` go: to one .png, or into a directory.

    Raises:
        typer.Exit: one .png was named for several files.
    """
    if out.suffix.lower() != ".png":
        return [out / f"{number}-{file.stem}.png" for number, file in enumerate(files, start=1)]
    if len(files) > 1:
        fail(f"{out} is one picture: name a directory for those of {len(files)} files", WRONG_USAGE)
    return [out]


def show(table: RenderableType) -> None:
    """Print a table or text to stdout; text in it is printed as it is, brackets too."""
    Console(markup=False, highlight=False).print(table)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def shortest(value: float) -> float:
    """A float32 that arrived as a double, without the digits it never had."""
    return float(f"{value:.7g}")
