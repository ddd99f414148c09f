"""Files that commands read and write: their content, their medium, and their names in errors.

A function that cannot do its work ends the command with a message (`fail`).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import typer

from lectern.channel import MAX_CONTENT_BYTES
from lectern.cli.output import WRONG_USAGE, fail
from lectern.kinds import NotTextError, decode_text, kind_of

STDIN = STDOUT = Path("-")
IMAGES_PER_REQUEST = 256
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}

Medium = Literal["image", "audio", "text"]
MEDIA = {"image", "audio", "text"}
MEDIA_TEXT = "pictures (PNG, JPEG, WebP), recordings (WAV, FLAC, OGG, MP3) and texts (UTF-8)"


def check_files(paths: Sequence[Path]) -> None:
    """Check, before any work is done, that each path is a file or `-`, standard input."""
    for path in paths:
        if path != STDIN and (path.is_dir() or not path.exists()):
            fail(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}", WRONG_USAGE)


def read(path: Path, max_bytes: int = MAX_CONTENT_BYTES) -> bytes:
    """The content of a file, or of standard input for `-`.

    Args:
        max_bytes: the default is the limit of one request. A file that is larger is not read.
    """
    try:
        if path == STDIN:
            if sys.stdin is None:
                fail("standard input is closed", WRONG_USAGE)
            content = sys.stdin.buffer.read(max_bytes + 1)
        else:
            if (size := path.stat().st_size) > max_bytes:
                fail(f"{path}: has {size:,} bytes; the most is {max_bytes:,}", WRONG_USAGE)
            with path.open("rb") as file:
                content = file.read(max_bytes + 1)
    except OSError as error:
        fail(f"{path}: {error.strerror}", WRONG_USAGE)
    if len(content) > max_bytes:
        fail(f"{path}: has more than {max_bytes:,} bytes, the most", WRONG_USAGE)
    return content


def read_all(paths: Sequence[Path], max_bytes: int = MAX_CONTENT_BYTES) -> list[bytes]:
    """The contents of files that one request sends; none is read if they are too large together.

    Args:
        max_bytes: of all; the default is the limit of one request.
    """
    total = 0
    for path in (path for path in paths if path != STDIN):
        try:
            total += path.stat().st_size
        except OSError as error:
            fail(f"{path}: {error.strerror}", WRONG_USAGE)
    if total > max_bytes:
        fail(f"the {len(paths)} files have {total:,} bytes together; the most is {max_bytes:,}", WRONG_USAGE)
    return [read(path, max_bytes) for path in paths]


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for `-`; see `decode_text`."""
    return text_of(path, read(path), WRONG_USAGE)


def read_texts(arguments: list[str] | None) -> list[str]:
    """The texts of a command's arguments; none, or `-`, is standard input. Without a word in them the command ends."""
    texts = [read_text(STDIN)] if not arguments or arguments == ["-"] else arguments
    if not any(text.strip() for text in texts):
        fail("there is no text", WRONG_USAGE)
    return texts


def text_of(path: Path, content: bytes, code: int = 1) -> str:
    """The text of a file with this content."""
    try:
        return decode_text(content)
    except NotTextError as error:
        fail(f"{path}: {error}", code)


def as_text(argument: str) -> str:
    """An argument of the command line, whose bytes are UTF-8 whatever the locale."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:  # Python keeps bytes that the locale does not know as surrogates
        try:
            return os.fsencode(argument).decode()
        except UnicodeError:
            fail(f"{argument!a}: not UTF-8 text (character {error.start})", WRONG_USAGE)
    return argument


def medium_of(path: Path, content: bytes) -> Medium:
    """The medium of a file, which decides the kind of model that takes it."""
    kind = kind_of(content)
    if kind.medium == "nothing":
        fail(f"{path}: is empty")
    if kind.medium not in MEDIA:
        advice = "`lectern predict` reads its rows" if kind.medium == "table" else f"models take {MEDIA_TEXT}"
        fail(f"{path}: looks like {kind.name}; {advice}")
    return cast(Medium, kind.medium)


def batches(paths: Sequence[Path]) -> Iterator[tuple[list[Path], list[bytes]]]:
    """Paths and contents of files, as many of one medium as one request takes.

    A recording is alone in its batch, since its length is unknown.
    """
    batch: list[Path] = []
    contents: list[bytes] = []
    medium = ""
    for path in paths:
        content = read(path)
        previous, medium = medium, kind_of(content).medium
        full = len(batch) == IMAGES_PER_REQUEST or sum(map(len, contents)) + len(content) > MAX_CONTENT_BYTES
        if batch and (full or medium != previous or medium == "audio"):
            yield batch, contents
            batch, contents = [], []
        batch.append(path)
        contents.append(content)
    yield batch, contents


def example_files(directory: Path) -> dict[str, list[Path]]:
    """Image files by class: the name of their folder in `directory`."""
    examples = {
        as_text(folder.name): sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        for folder in sorted(path for path in directory.iterdir() if path.is_dir())
    }
    examples = {label: paths for label, paths in examples.items() if paths}
    if not examples:
        fail(f"{directory}: has no folder of PNG, JPEG or WebP images, one for each class", WRONG_USAGE)
    return examples


@contextmanager
def named_in_errors(**files: Sequence[Path]) -> Iterator[None]:
    """Calls inside that fail end the command with the names of the files that the server refused.

    Args:
        files: the files that are sent, by the field of the request that holds them.
    """
    from lectern.errors import LecternError

    try:
        yield
    except LecternError as error:
        refused = [
            f"{files[place[1]][int(place[2] or 0)]}: {description}"
            for field, description in error.violations
            if (place := re.match(r"(\w+)(?:\[(\d+)\])?", field)) and place[1] in files
        ]
        if refused:
            fail("\n  ".join(refused))
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file and say where it is, or write to standard output for `-`."""
    if path == STDOUT:
        sys.stdout.buffer.write(content)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path}: {error.strerror}", WRONG_USAGE)
    typer.echo(f"wrote {path}", err=True)  # standard output is for the answer, perhaps a document


def picture_paths(out: Path, paths: Sequence[Path]) -> list[Path]:
    """Where the pictures of several files are written: to `out` itself, a .png, or into that directory."""
    if out.suffix.lower() != ".png":
        return [out / f"{number}-{path.stem}.png" for number, path in enumerate(paths, start=1)]
    if len(paths) > 1:
        fail(f"{out} is one picture: name a directory for those of {len(paths)} files", WRONG_USAGE)
    return [out]
