"""`lectern search`: the sentences of files that mean nearly what a query means."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from lectern.cli.app import ASK, LONG, command
from lectern.cli.connection import Connection, chunks, in_requests
from lectern.cli.files import check_files, read_text
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import WRONG_USAGE, fail, print_json, show_notices, show_table

TEXTS_PER_REQUEST = 128
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])")
_PARAGRAPHS = re.compile(r"(?:^.*[^\W_].*\n?)+", re.MULTILINE)


@dataclass(frozen=True)
class Sentence:
    """A sentence of a file, and the line that it begins on, from 1."""

    file: str
    line: int
    text: str


@command(ASK, timeout=LONG)
def search(
    connection: Connection,
    query: Annotated[str, typer.Argument(help="What to look for, in any words.", show_default=False)],
    further: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", hidden=True)] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--in", metavar="FILE...", help="Text files to search; - is standard input.", show_default=False),
    ] = None,
    model: Annotated[str, default_model("text_encoder")] = "",
    version: Version = 0,
    top_k: Annotated[int, typer.Option(min=1, help="Sentences to print, best first.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Find the sentences of files whose vectors are nearest to the query's.

    \b
    lectern search "ships that came home" --in docs/examples/beagle.txt
    lectern search "how to limit memory" --in docs/*.md --top-k 3
    """
    if not query.strip():
        fail("the query is empty: say what to look for", WRONG_USAGE)
    paths = [*(files or []), *(further or [])]
    if not paths:
        fail("name the files to search with --in", WRONG_USAGE)
    check_files(paths)
    sentences = [sentence for path in paths for sentence in sentences_of(str(path), read_text(path))]
    texts = [query, *(sentence.text for sentence in sentences)]
    with connection.client() as client:
        response = in_requests(
            lambda part, version: client.embed_text(part, model, version), chunks(texts, TEXTS_PER_REQUEST), version
        )
    show_notices(response.results[0].notices, "query")
    cosines = products(response.results[0].vector, [result.vector for result in response.results[1:]])
    best = sorted(zip(cosines, sentences, strict=True), key=lambda pair: -pair[0])[:top_k]
    if as_json:
        found = [{**asdict(sentence), "cosine": cosine} for cosine, sentence in best]
        print_json({"model": response.model, "version": response.version, "results": found})
    else:
        show_table(["cosine", "where", "sentence"], [[f"{c:.4f}", f"{s.file}:{s.line}", Text(s.text)] for c, s in best])


def sentences_of(file: str, text: str) -> Iterator[Sentence]:
    """The sentences of a text that have a letter or digit. A line without any parts two; one with some goes on."""
    starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    for paragraph in _PARAGRAPHS.finditer(text):
        begin = paragraph.start()
        ends = [paragraph.start() + end.end() for end in _END.finditer(paragraph[0])]
        for end in (*ends, paragraph.end()):
            if any(map(str.isalnum, sentence := text[begin:end])):
                line = bisect_right(starts, begin + len(sentence) - len(sentence.lstrip()))
                yield Sentence(file, line, " ".join(sentence.split()))
            begin = end


def products(query: Sequence[float], vectors: Sequence[Sequence[float]]) -> list[float]:
    """The dot product of a query with each vector: the cosine, since their lengths are 1."""
    import numpy as np

    matrix = np.asarray(vectors, np.float32).reshape(len(vectors), len(query))
    cosines: list[float] = (matrix @ np.asarray(query, np.float32)).tolist()
    return cosines
