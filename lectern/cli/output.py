"""What commands read and print: files, failures, JSON, tables, numbers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console, RenderableType

from lectern.channel import MAX_CONTENT_BYTES
from lectern.distribution import how_to_install
from lectern.kinds import NotTextError, decode_text

if TYPE_CHECKING:
    from lectern.v1.notice_pb2 import Notice

FAILED = 1
WRONG_USAGE = 2
STDIN = STDOUT = Path("-")
LEAST_COLUMNS = 80


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
    """See that each can be read, or is `-`, standard input, before any work is done.

    Raises:
        typer.Exit: one cannot.
    """
    for path in paths:
        if path != STDIN and (path.is_dir() or not path.exists()):
            fail(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}", WRONG_USAGE)


def read(path: Path, most: int = MAX_CONTENT_BYTES) -> bytes:
    """The content of a file, or of standard input for `-`, which may have `most` bytes: what one request holds.

    Raises:
        typer.Exit: it cannot be read, or has more; of a file that says its size nothing is read then.
    """
    try:
        if path == STDIN:
            if sys.stdin is None:
                fail("standard input is closed", WRONG_USAGE)
            content = sys.stdin.buffer.read(most + 1)
        else:
            if (size := path.stat().st_size) > most:
                fail(f"{path}: has {size:,} bytes; the most is {most:,}", WRONG_USAGE)
            with path.open("rb") as file:
                content = file.read(most + 1)
    except OSError as error:
        fail(f"{path}: {error.strerror}", WRONG_USAGE)
    if len(content) > most:
        fail(f"{path}: has more than {most:,} bytes, the most", WRONG_USAGE)
    return content


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for `-`; see `decode_text`.

    Raises:
        typer.Exit: it cannot be read, or is no text.
    """
    try:
        return decode_text(read(path))
    except NotTextError as error:
        fail(f"{path}: {error}", WRONG_USAGE)


def as_text(argument: str) -> str:
    """An argument of the command line, whose bytes are UTF-8 whatever the locale.

    Raises:
        typer.Exit: they are not.
    """
    try:
        argument.encode()
    except UnicodeEncodeError as error:  # Python keeps bytes that the locale does not know as surrogates
        try:
            return os.fsencode(argument).decode()
        except UnicodeError:
            fail(f"{argument!a}: not UTF-8 text (character {error.start})", WRONG_USAGE)
    return argument


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
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, LEAST_COLUMNS)
    console.print(table)


def show_notices(notices: Iterable[Notice], name: str = "") -> None:
    """Print the reservations of an answer to stderr, by the name of what was asked about, else by its field."""
    for notice in notices:
        typer.echo(f"note: {name or notice.field}: {notice.text}", err=True)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout; where that is not UTF-8, with escapes."""
    typer.echo(as_json(document, indent=2))


def as_json(document: Any, indent: int | None = None) -> str:
    """A JSON document as standard output can show it."""
    text = json.dumps(document, indent=indent, ensure_ascii=not _is_utf8(sys.stdout))
    return text.encode("utf-8", "backslashreplace").decode()  # names of files that are not UTF-8


def _is_utf8(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def shortest(value: float) -> float:
    """A float32 that arrived as a double, without the digits it never had."""
    return float(f"{value:.7g}")
