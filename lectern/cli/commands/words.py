"""`lectern words`: the words that are nearest to a word, or to a sum of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import WRONG_USAGE, fail, print_response, print_rows, show_notices

SIGNS = ("+", "-")


@command(ASK)
def words(
    connection: Connection,
    terms: Annotated[
        list[str],
        typer.Argument(metavar="WORD [+|- WORD]...", help="Words, with + or - between them.", show_default=False),
    ],
    model: Annotated[str, default_model("word_vectors")] = "",
    version: Version = 0,
    top_k: Annotated[int, typer.Option(min=1, help="Words to print, nearest first.")] = 10,
    as_json: AsJson = False,
) -> None:
    """List the words whose vectors are nearest to a word's, or to a sum of words.

    \b
    lectern words river
    lectern words king - man + woman
    lectern words paris - france + italy --top-k 3
    """
    positive, negative = signed(terms)
    with connection.client() as client:
        response = client.nearest(positive, negative, model, version, top_k)
    show_notices(response.notices)
    if as_json:
        print_response(response)
    else:
        print_rows(["word", "cosine"], [[near.word, f"{near.cosine:.4f}"] for near in response.words])


def signed(terms: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is added and what is subtracted; words without a sign between them are one text."""
    texts: dict[str, list[str]] = {sign: [] for sign in SIGNS}
    parts: list[str] = []
    sign = SIGNS[0]
    for term in (*terms, ""):  # the empty one ends the last text
        if term and term not in SIGNS:
            parts.append(term)
            continue
        if not parts:
            fail("write a word on each side of + and -, such as king - man + woman", WRONG_USAGE)
        texts[sign].append(" ".join(parts))
        parts, sign = [], term
    return texts["+"], texts["-"]
