"""`lectern classify`: the class of pictures, recordings and texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lectern.cli.app import ASK, LONG, command
from lectern.cli.connection import Connection, in_requests
from lectern.cli.files import Medium, batches, check_files, medium_of, named_in_errors, text_of
from lectern.cli.options import AsJson, TopK, Version, default_model
from lectern.cli.output import WRONG_USAGE, fail, print_response, show, show_notices, show_table
from lectern.kinds import kind_of

if TYPE_CHECKING:
    from lectern.client import Client
    from lectern.errors import LecternError
    from lectern.v1 import classify_pb2 as pb

BAR_WIDTH = 30


@command(ASK, timeout=LONG)
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
    model: Annotated[str, default_model("image_, phoneme_ or sentiment_classifier, by the content")] = "",
    version: Version = 0,
    top_k: TopK = 3,
    as_json: AsJson = False,
) -> None:
    """Classify pictures, recordings or texts.

    \b
    lectern classify cat.png dog.jpg
    lectern classify --model drawing_classifier --top-k 5 sketch.webp
    curl -s https://example.org/cat.jpg | lectern classify -
    lectern classify speech.wav
    lectern classify speech.wav --model speaker_classifier
    lectern classify --text "What a lovely film!"
    lectern classify mail.txt --model spam_classifier
    """
    if bool(files) == bool(texts):
        fail("name files, or give texts with --text", WRONG_USAGE)
    check_files(files or [])
    items: Sequence[object] = texts or files or []
    with connection.client() as client:
        response: Any
        if texts:
            response, medium = client.classify_text(texts, model, version, top_k), "text"
            show_notices(notice for result in response.results for notice in result.notices)
        else:
            response, medium = _classify_files(client, files or [], model, version, top_k)
    if as_json:
        print_response(response, "text" if texts else "file", items)
    elif medium == "audio":
        for item, result in zip(items, response.results, strict=True):
            _show_title(f"{item}  {result.duration_seconds:.2f} s")
            if result.segments:
                _show_segments(result.segments)
            else:
                show(_classes_table(result.classes))
    else:
        show_classes(items, response.results)


def show_classes(items: Sequence[object], results: Sequence[pb.Classification]) -> None:
    """Print for each item a table of its classes."""
    for item, result in zip(items, results, strict=True):
        _show_title(str(item))
        show(_classes_table(result.classes))


def _show_title(title: str) -> None:
    """Print the line above a table."""
    show(Text(title, style="bold", no_wrap=True, overflow="ignore"))


def _classes_table(classes: Iterable[pb.ScoredClass]) -> Table:
    """Classes with their probability."""
    table = Table(box=None, show_header=False)
    for scored in classes:
        table.add_row(scored.label, f"{scored.probability:.1%}", _bar(scored.probability))
    return table


def segment_cells(segment: pb.AudioSegment) -> tuple[str, str, str, str]:
    """Start, end, label and confidence."""
    times = f"{segment.start_seconds:.2f}", f"{segment.end_seconds:.2f}"
    return *times, segment.label, f"{segment.confidence:.1%}"


def _show_segments(segments: Iterable[pb.AudioSegment]) -> None:
    rows = [(*segment_cells(segment), _bar(segment.confidence)) for segment in segments]
    show_table(("start", "end", "", "confidence", ""), rows)


def _bar(share: float) -> ProgressBar:
    return ProgressBar(total=1, completed=share, width=BAR_WIDTH)


def _classify_files(client: Client, files: Sequence[Path], model: str, version: int, top_k: int) -> tuple[Any, Medium]:
    """One response about all files, and their medium."""
    media: list[Medium] = []

    def ask(batch: tuple[list[Path], list[bytes]], version: int) -> Any:
        paths, contents = batch
        media.append(medium_of(paths[0], contents[0]))
        if media[-1] != media[0]:
            fail(f"{paths[0]}: pictures, recordings and texts need a command each", WRONG_USAGE)
        return _classify_batch(client, media[0], paths, contents, model, version, top_k)

    return in_requests(ask, batches(files), version), media[0]


def _classify_batch(
    client: Client, medium: Medium, paths: list[Path], contents: list[bytes], model: str, version: int, top_k: int
) -> Any:
    """The response about files of one medium."""
    from lectern.errors import LecternError

    try:
        with named_in_errors(clips=paths, images=paths, texts=paths):
            if medium == "audio":
                return client.classify_audio(contents, model, version, top_k)
            if medium == "image":
                return client.classify_image(contents, model, version, top_k)
            texts = [text_of(path, content) for path, content in zip(paths, contents, strict=True)]
            response = client.classify_text(texts, model, version, top_k)
    except LecternError as error:
        _fail_for_medium(error, paths[0], contents[0])
        raise
    for path, result in zip(paths, response.results, strict=True):
        show_notices(result.notices, str(path))
    return response


def _fail_for_medium(error: LecternError, path: Path, content: bytes) -> None:
    """End with what a file looks like, if the server refused it because the model takes another medium."""
    for field, description in error.violations:
        if field == "model" and "does not take" in description:
            fail(f"{path}: looks like {kind_of(content).name}, and {description}")
