"""`lectern classify`: what is on pictures, in recordings and in texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lectern.channel import MAX_CONTENT_BYTES
from lectern.cli.connection import Connection
from lectern.cli.inputs import Taken, medium_of, text_of
from lectern.cli.output import WRONG_USAGE, check_files, fail, print_json, read, show, show_notices
from lectern.kinds import kind_of

if TYPE_CHECKING:
    from lectern.errors import LecternError
    from lectern.v1.classify_pb2 import AudioClassification, AudioSegment, Classification, ScoredClass

IMAGES_PER_REQUEST = 256


def classify(
    connection: Connection,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Pictures (PNG, JPEG, WebP), recordings (WAV, FLAC, OGG, MP3) or texts (UTF-8); - is standard input.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        list[str] | None, typer.Option("--text", metavar="TEXT", help="A text; may be given several times.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="One of `lectern models`.", show_default="image_, phoneme_ or sentiment_classifier, by the content"
        ),
    ] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    top_k: Annotated[int, typer.Option(min=0, help="Classes to print for each file, best first; 0 = all.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is on pictures, in recordings or in texts.

    \b
    lectern classify cat.png dog.jpg
    lectern classify --model drawing_classifier --top-k 5 sketch.webp
    curl -s https://example.org/cat.jpg | lectern classify -
    lectern classify speech.wav
    lectern classify speech.wav --model speaker_classifier
    lectern classify --text "What a lovely film!"
    lectern classify mail.txt --model spam_classifier
    """
    answers: list[dict[str, Any]] = []
    answered_by: dict[str, Any] = {}
    if bool(files) == bool(texts):
        fail("name files, or give texts with --text", WRONG_USAGE)
    check_files(files or [])
    with connection.client() as client:
        from lectern.errors import LecternError

        if texts:
            told = client.classify_text(texts, model, version, top_k)
            show_notices(notice for result in told.results for notice in result.notices)
            answered_by = {"model": told.model, "version": told.version}
            answers = as_dicts(texts, told.results, "text")
        asked: Taken | None = None
        for paths, contents in batches(files) if files else ():
            medium = medium_of(paths[0], contents[0])
            if asked not in (None, medium):
                fail(f"{paths[0]}: pictures, recordings and texts need a command each", WRONG_USAGE)
            asked = medium
            version = version or answered_by.get("version", 0)
            try:
                if medium == "audio":
                    heard = client.classify_audio(contents, model, version, top_k)
                    answered_by = {"model": heard.model, "version": heard.version}
                    answers += recordings_as_dicts(paths, heard.results)
                elif medium == "text":
                    written = [text_of(path, content) for path, content in zip(paths, contents, strict=True)]
                    told = client.classify_text(written, model, version, top_k)
                    for path, result in zip(paths, told.results, strict=True):
                        show_notices(result.notices, str(path))
                    answered_by = {"model": told.model, "version": told.version}
                    answers += as_dicts(paths, told.results)
                else:
                    seen = client.classify_image(contents, model, version, top_k)
                    answered_by = {"model": seen.model, "version": seen.version}
                    answers += as_dicts(paths, seen.results)
            except LecternError as error:
                name_files(error, dict.fromkeys(("clips", "images", "texts"), paths))
                name_kind(error, paths[0], contents[0])
                raise
    if as_json:
        print_json({**answered_by, "results": answers})
    elif asked == "audio":
        show_recordings(answers)
    else:
        show_classes(answers)


def as_dicts(items: Sequence[object], results: Sequence[Classification], kind: str = "file") -> list[dict[str, Any]]:
    """What JSON has of the classes of each item, a `file` or a `text`."""
    return [{kind: str(item), "classes": scored(result.classes)} for item, result in zip(items, results, strict=True)]


def scored(classes: Iterable[ScoredClass]) -> list[dict[str, Any]]:
    """What JSON has of classes."""
    return [{"label": c.label, "index": c.index, "probability": c.probability} for c in classes]


def show_classes(answers: list[dict[str, Any]]) -> None:
    """Print a table for each file or text."""
    for answer in answers:
        show(Text(answer.get("file") or answer["text"], style="bold", no_wrap=True, overflow="ignore"))
        show(classes_table(answer["classes"]))


def classes_table(classes: Iterable[dict[str, Any]]) -> Table:
    """Classes with how likely each is."""
    table = Table(box=None, show_header=False)
    for entry in classes:
        bar = ProgressBar(total=1, completed=entry["probability"], width=30)
        table.add_row(entry["label"], f"{entry['probability']:.1%}", bar)
    return table


def batches(files: list[Path]) -> Iterator[tuple[list[Path], list[bytes]]]:
    """Files with their contents, as many of one kind at a time as one request takes: of recordings, whose length is
    unknown, one.

    Raises:
        typer.Exit: a file cannot be read.
    """
    paths: list[Path] = []
    contents: list[bytes] = []
    medium = ""
    for path in files:
        content = read(path)
        before, medium = medium, kind_of(content).medium
        full = len(paths) == IMAGES_PER_REQUEST or sum(map(len, contents)) + len(content) > MAX_CONTENT_BYTES
        if paths and (full or medium != before or medium == "audio"):
            yield paths, contents
            paths, contents = [], []
        paths.append(path)
        contents.append(content)
    yield paths, contents


def recordings_as_dicts(paths: Sequence[Path], results: Sequence[AudioClassification]) -> list[dict[str, Any]]:
    """What JSON has of each recording's classes and segments."""
    return [
        {
            "file": str(path),
            "duration_seconds": result.duration_seconds,
            "classes": scored(result.classes),
            "segments": [segment_as_dict(segment) for segment in result.segments],
        }
        for path, result in zip(paths, results, strict=True)
    ]


def segment_as_dict(segment: AudioSegment) -> dict[str, Any]:
    """What JSON has of a segment."""
    return {
        "label": segment.label,
        "index": segment.index,
        "start_seconds": round(segment.start_seconds, 6),
        "end_seconds": round(segment.end_seconds, 6),
        "confidence": segment.confidence,
    }


def show_recordings(answers: list[dict[str, Any]]) -> None:
    """Print for each recording its segments, or of a model without them its classes."""
    for answer in answers:
        title = f"{answer['file']}  {answer['duration_seconds']:.2f} s"
        show(Text(title, style="bold", no_wrap=True, overflow="ignore"))
        if not answer["segments"]:
            show(classes_table(answer["classes"]))
            continue
        table = Table("start", "end", "", "confidence", "", box=None)
        for segment in answer["segments"]:
            table.add_row(*segment_row(segment), ProgressBar(total=1, completed=segment["confidence"], width=30))
        show(table)


def segment_row(segment: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Start, end, label and confidence."""
    start, end = f"{segment['start_seconds']:.2f}", f"{segment['end_seconds']:.2f}"
    return start, end, segment["label"], f"{segment['confidence']:.1%}"


def name_files(error: LecternError, files: Mapping[str, Sequence[Path]]) -> None:
    """End with the names of the files that the server refused, if it refused any.

    Args:
        files: those that were sent, by the field of the request that held them.

    Raises:
        typer.Exit: it did.
    """
    refused = [
        f"{files[found[1]][int(found[2] or 0)]}: {description}"
        for field, description in error.violations
        if (found := re.match(r"(\w+)(?:\[(\d+)\])?", field)) and found[1] in files
    ]
    if refused:
        fail("\n  ".join(refused))


def name_kind(error: LecternError, file: Path, content: bytes) -> None:
    """End with what a file looks like, if the server refused the model for it.

    Raises:
        typer.Exit: it did.
    """
    for field, description in error.violations:
        if field == "model" and "does not take" in description:
            fail(f"{file}: looks like {kind_of(content).name}, and {description}")
