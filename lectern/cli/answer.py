"""`lectern answer`: what a text says to a question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lectern.cli.connection import Connection
from lectern.cli.output import STDIN, check_files, print_json, read_text, show

if TYPE_CHECKING:
    from lectern.v1.answer_pb2 import AnswerResult

QUESTIONS_PER_REQUEST = 256
AROUND = 40  # characters of the context that are shown on either side of an answer


def answer(
    connection: Connection,
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="What to ask of the text.", show_default=False)
    ],
    context: Annotated[
        Path, typer.Option(metavar="FILE", help="The text, as UTF-8; - is standard input.", show_default="-")
    ] = STDIN,
    model: Annotated[str, typer.Option(help="One of `lectern models`.", show_default="question_answerer")] = "",
    version: Annotated[int, typer.Option(min=0, help="0 is the latest.")] = 0,
    top_k: Annotated[int, typer.Option(min=1, help="Answers to print for each question, best first.")] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(help='Probability above which "no answer" is believed.', show_default="the model's own"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find the answers to questions in a text, or say that it has none.

    \b
    lectern answer --context story.txt "Who found the boat?"
    lectern answer --context story.txt --top-k 3 "Who found it?" "Where was it found?"
    curl -s https://example.org/story.txt | lectern answer "Who found the boat?" --json
    """
    if context != STDIN:
        check_files([context])
    text = read_text(context)
    answers: list[dict[str, Any]] = []
    answered_by: dict[str, Any] = {}
    with connection.client() as client:
        for start in range(0, len(questions), QUESTIONS_PER_REQUEST):
            part = questions[start : start + QUESTIONS_PER_REQUEST]
            version = version or answered_by.get("version", 0)
            response = client.answer(part, text, model, version, top_k, no_answer_threshold=threshold)
            answered_by = {"model": response.model, "version": response.version}
            answers += as_dicts(part, response.results)
    if as_json:
        print_json({**answered_by, "results": answers})
        return
    for found in answers:
        show_answers(text, found)


def as_dicts(questions: Sequence[str], results: Sequence[AnswerResult]) -> list[dict[str, Any]]:
    """What JSON has of each question's answers; positions count Unicode code points of the text."""
    return [
        {
            "question": question,
            "has_answer": result.has_answer,
            "no_answer_probability": result.no_answer_probability,
            "answers": [
                {"text": a.text, "start": a.start, "end": a.end, "probability": a.probability} for a in result.answers
            ],
        }
        for question, result in zip(questions, results, strict=True)
    ]


def show_answers(context: str, found: dict[str, Any]) -> None:
    """Print a question and each answer with what stands around it."""
    show(Text(found["question"], style="bold"))
    table = Table(box=None, show_header=False)
    if not found["has_answer"]:
        table.add_row("no answer", f"{found['no_answer_probability']:.1%}", "")
    else:
        for one in found["answers"]:
            table.add_row(one["text"], f"{one['probability']:.1%}", around(context, one["start"], one["end"]))
    show(table)


def around(context: str, start: int, end: int) -> Text:
    """A span in its line, with the rest of it dimmed."""
    before, after = context[max(0, start - AROUND) : start], context[end : end + AROUND]
    parts = (
        ("…" if start > AROUND else "") + before.replace("\n", " "),
        context[start:end].replace("\n", " "),
        after.replace("\n", " ") + ("…" if end + AROUND < len(context) else ""),
    )
    return Text.assemble((parts[0], "dim"), (parts[1], "bold"), (parts[2], "dim"))
