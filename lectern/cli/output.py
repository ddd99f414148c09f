"""What commands print: error messages, tables, notices and JSON."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.status import Status
from rich.table import Table

from lectern.distribution import how_to_install

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from lectern.v1.notice_pb2 import Notice

FAILED = 1
WRONG_USAGE = 2
LEAST_COLUMNS = 80
DECIMALS_OF_SECONDS = 6


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print an error to stderr and end with `code`.

    Raises:
        typer.Exit: always.
    """
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def fail_for_missing(what: str, error: ImportError, *extras: str) -> NoReturn:
    """End because `what` needs a package that is not installed: one of `extras`, or one that only a checkout has.

    Raises:
        typer.Exit: always.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("artifacts", "inference", "loadtests", "services", "training"):
        image = "" if "train" in extras else " or its image (deploy/Dockerfile)"
        fail(f"{what} needs a checkout of Lectern{image}: the package `{package}` is not installed here")
    fail(f"{what} needs more packages ({error}): {how_to_install(*extras)}")


def console() -> Console:
    """Standard output, at least `LEAST_COLUMNS` wide; brackets in texts are printed, not read as markup."""
    made = Console(markup=False, highlight=False)
    made.width = max(made.width, LEAST_COLUMNS)
    return made


def show(table: RenderableType) -> None:
    """Print a table or text to stdout."""
    console().print(table)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> None:
    """Print a table without lines."""
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    show(table)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print numbered rows on a terminal, CSV into a pipe or file."""
    if sys.stdout.isatty():
        lines = [[str(number), *map(str, row)] for number, row in enumerate(rows, start=1)]
        show_table(["row", *columns], lines)
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])


def working(on: str) -> Status:
    """A `with` block during which a terminal shows what takes so long."""
    return Console(stderr=True).status(on)


def yes(value: bool) -> str:
    """`yes` or `no`."""
    return "yes" if value else "no"


def show_notices(notices: Iterable[Notice], name: str = "") -> None:
    """Print the notices of an answer to stderr, each with `name`, the input that it is about, else with its field."""
    for notice in notices:
        typer.echo(f"note: {name or notice.field}: {notice.text}", err=True)


def print_json(document: Any) -> None:
    """Print one JSON document to stdout; with escapes where stdout is not UTF-8."""
    typer.echo(as_json(document, indent=2))


def print_response(response: Message, field: str = "", items: Sequence[object] = ()) -> None:
    """Print a response as JSON, each of its results with the item that it is about.

    Args:
        field: what the items are: `file`, `text` or `question`.
        items: one for each result, in order; empty if the response has none.
    """
    document = as_document(response)
    if field:
        pairs = zip(items, document["results"], strict=True)
        document["results"] = [{field: str(item), **result} for item, result in pairs]
    print_json(document)


def as_document(message: Message) -> dict[str, Any]:
    """A message for JSON: its fields by their names in the protos, 64-bit integers as numbers, without bytes."""
    from google.protobuf.json_format import MessageToDict

    document = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _plain(document, message.DESCRIPTOR)


def as_json(document: Any, indent: int | None = None) -> str:
    """A JSON document in the characters that standard output has."""
    text = json.dumps(document, indent=indent, ensure_ascii=not _is_utf8(sys.stdout))
    return text.encode("utf-8", "backslashreplace").decode()  # file names may be no UTF-8


def _plain(document: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    """Undo what proto JSON does to bytes (base64), 64-bit integers (strings) and doubles, which are all seconds."""
    in_message_order = {}
    for field in descriptor.fields:
        if field.name not in document or field.type == field.TYPE_BYTES:
            continue
        value = document[field.name]
        if field.message_type is not None and not field.message_type.full_name.startswith("google."):
            several = isinstance(value, list)
            parts = [_plain(part, field.message_type) for part in (value if several else [value])]
            value = parts if several else parts[0]
        elif field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
            value = int(value)
        elif field.type == field.TYPE_DOUBLE:
            value = round(value, DECIMALS_OF_SECONDS)
        in_message_order[field.name] = value
    return in_message_order


def _is_utf8(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
