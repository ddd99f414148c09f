"""`lectern answer-story`: the answer to a question about a story, and where the model looked for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lectern.cli.app import ASK, command
from lectern.cli.connection import Connection
from lectern.cli.files import check_files, read_text
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import WRONG_USAGE, fail, print_response, show, show_notices

if TYPE_CHECKING:
    from lectern.v1.answer_pb2 import AnswerStoryResponse

BLOCKS = " ▁▂▃▄▅▆▇█"
LEAST = 0.01  # of an attention that is worth a number


@command(ASK)
def answer_story(
    connection: Connection,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE] QUESTION",
            help="The file has a sentence a line, the oldest first; - is standard input.",
            show_default=False,
        ),
    ],
    sentences: Annotated[
        list[str] | None,
        typer.Option(
            "--sentence", help="A sentence of the story, in place of a file; may be repeated.", metavar="TEXT"
        ),
    ] = None,
    model: Annotated[str, default_model("memory_reader")] = "",
    version: Version = 0,
    top_k: Annotated[int, typer.Option(min=1, help="Answers to print, best first.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Answer a question about a story, and show how much each of its sentences counted in each hop.

    \b
    lectern answer-story docs/examples/story.txt "Where is the football?"
    lectern answer-story --sentence "John took the milk." --sentence "John went to the garden." "Where is the milk?"
    """
    *files, question = words
    if len(files) != (0 if sentences else 1):
        fail("give one FILE, or --sentence, and one QUESTION in quotation marks", WRONG_USAGE)
    if files:
        check_files([file := Path(files[0])])
        sentences = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    with connection.client() as client:
        response = client.answer_story(sentences or [], question, model, version, top_k)
    show_notices(response.notices, "story")
    if as_json:
        print_response(response)
        return
    show(_heat_map(sentences or [], question, response))
    for entry in response.answers:
        show(Text.assemble((entry.text, "bold"), f"  {entry.probability:.1%}"))


def _heat_map(sentences: list[str], question: str, response: AnswerStoryResponse) -> Table:
    """Each sentence with a bar for each hop, as high as its attention."""
    table = Table(box=None, show_footer=True)
    table.add_column("", footer=Text(question, style="bold"))
    for number in range(1, len(response.hops) + 1):
        table.add_column(f"hop {number}")
    for i, sentence in enumerate(sentences):
        table.add_row(Text(sentence), *(_bar(hop.attention[i]) for hop in response.hops))
    return table


def _bar(weight: float) -> Text:
    """A block as high as the weight, and the weight."""
    block = BLOCKS[round(weight * (len(BLOCKS) - 1))]
    colour = f"rgb({round(120 + 135 * weight)},{round(120 + 45 * weight)},{round(120 - 120 * weight)})"
    return Text.assemble((block, colour), f" {weight:4.0%}") if weight >= LEAST else Text("")
