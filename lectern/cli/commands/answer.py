"""`lectern answer`: answers to questions, from a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lectern.cli.app import ASK, LONG, command
from lectern.cli.connection import Connection, chunks, in_requests
from lectern.cli.files import STDIN, check_files, read_text
from lectern.cli.options import AsJson, Version, default_model
from lectern.cli.output import print_response, show

if TYPE_CHECKING:
    from lectern.v1.answer_pb2 import AnswerResult

QUESTIONS_PER_REQUEST = 256
CONTEXT_CHARACTERS = 40  # that are shown on either side of an answer


@command(ASK, timeout=LONG)
def answer(
    connection: Connection,
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="What to ask about the text.", show_default=False)
    ],
    context: Annotated[
        Path, typer.Option(metavar="FILE", help="The text, as UTF-8; - is standard input.", show_default="-")
    ] = STDIN,
    model: Annotated[str, default_model("question_answerer")] = "",
    version: Version = 0,
    top_k: Annotated[int, typer.Option(min=1, help="Answers to print for each question, best first.")] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(help='Probability of "no answer" above which there is none.', show_default="the model's own"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the answers to questions in a text, or say that it has none.

    \b
    lectern answer --context story.txt "Who found the boat?"
    lectern answer --context story.txt --top-k 3 "Who found it?" "Where was it found?"
    curl -s https://example.org/story.txt | lectern answer "Who found the boat?" --json
    """
    check_files([context])
    text = read_text(context)
    with connection.client() as client:
        response = in_requests(
            lambda part, version: client.answer(part, text, model, version, top_k, no_answer_threshold=threshold),
            chunks(questions, QUESTIONS_PER_REQUEST),
            version,
        )
    if as_json:
        print_response(response, "question", questions)
        return
    for question, result in zip(questions, response.results, strict=True):
        show(Text(question, style="bold"))
        show(_answers(text, result))


def _answers(context: str, result: AnswerResult) -> Table:
    """Each answer with its probability and the text around it."""
    table = Table(box=None, show_header=False)
    if not result.has_answer:
        table.add_row("no answer", f"{result.no_answer_probability:.1%}", "")
        return table
    for entry in result.answers:
        table.add_row(entry.text, f"{entry.probability:.1%}", _in_context(context, entry.start, entry.end))
    return table


def _in_context(context: str, start: int, end: int) -> Text:
    """An answer in the text around it, which is dimmed."""
    before, after = context[max(0, start - CONTEXT_CHARACTERS) : start], context[end : end + CONTEXT_CHARACTERS]
    parts = (
        ("…" if start > CONTEXT_CHARACTERS else "") + before.replace("\n", " "),
        context[start:end].replace("\n", " "),
        after.replace("\n", " ") + ("…" if end + CONTEXT_CHARACTERS < len(context) else ""),
    )
    return Text.assemble((parts[0], "dim"), (parts[1], "bold"), (parts[2], "dim"))
