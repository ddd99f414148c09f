"""Cells of a CSV file: what parts them, which are numbers, and how errors name them.

Spreadsheets write CSV in many ways: commas, semicolons, tabs or bars between cells, a first line `sep=;`, UTF-8 or
UTF-16, points or commas in numbers, empty rows at the end. All of these are read; a number that can be read in two ways
is refused.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_TABLE_BYTES = 2**29  # a table is sent in many requests
_MAX_CELL = 2**31 - 1  # characters; the file's size is limited when it is read
_LINE_END = re.compile(r"\r\n|\r|\n")
SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_GROUPS = re.compile(r"[-+]?\d{1,3}(?:[,. '’_\u00a0\u202f]\d{3})+(?:[.,]\d*)?")  # such as 1,234,567.8
_THOUSANDS = re.compile(r"[-+]?\d{1,3},\d{3}")


class RowsError(ValueError):
    """The table cannot be used; the message names row and column."""


class Row(NamedTuple):
    number: int  # of its last line, from 1
    cells: list[str]


def rows_of(text: str, delimiter: str) -> Iterator[Row]:
    """The rows that are not empty, without Excel's `sep=`."""
    csv.field_size_limit(_MAX_CELL)
    lines = len(_LINE_END.findall(text)) + (not text.endswith(("\r", "\n")))
    # csv decides where lines end: splitlines would also cut cells at characters such as U+2028.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    end = 0
    try:
        for cells in reader:
            start, end = end + 1, reader.line_num
            if end > start and end == lines and text.count('"') % 2:
                raise RowsError(f"row {start} has a quote that is not closed")
            if reader.line_num == 1 and SEPARATOR.match(text):
                continue
            if any(cell.strip() for cell in cells):
                yield Row(reader.line_num, cells)
    except csv.Error as error:
        raise RowsError(f"row {reader.line_num + 1} cannot be read: {error}") from None


def trimmed(cells: list[str], width: int) -> list[str]:
    """Cells without empty ones beyond `width`."""
    return cells[:width] if not any(cell.strip() for cell in cells[width:]) else cells


class Cell(NamedTuple):
    """A cell as errors name it: its row, from 1, its column, and its text."""

    row: int
    column: str
    text: str


def is_number(text: str, delimiter: str) -> bool:
    """Whether a cell holds a finite number, perhaps with a decimal comma."""
    return value_of(text) is not None or (delimiter != "," and DECIMAL_COMMA.fullmatch(text.strip()) is not None)


def has_decimal_comma(cells: Sequence[Cell], delimiter: str) -> bool:
    """Whether the numbers of a table have decimal commas.

    Raises:
        RowsError: the table has `1,234`, and nothing tells whether that is 1234 or 1.234.
    """
    commas = [cell for cell in cells if DECIMAL_COMMA.fullmatch(cell.text.strip())]
    if not commas or any("." in cell.text for cell in cells):
        return False
    # Programs that write decimal commas put semicolons between cells. With another delimiter, some number must show it.
    if delimiter != ";" and all(_THOUSANDS.fullmatch(cell.text.strip()) for cell in commas):
        row, column, text = commas[0].row, commas[0].column, commas[0].text.strip()
        point, plain = text.replace(",", "."), text.replace(",", "")
        raise RowsError(f"row {row}, column {column}: {text!r} may be {point} or {plain}: write one of these")
    return True


def number_of(cell: Cell, comma: bool) -> float:
    """The number in a cell; `comma` says whether those of its table have decimal commas.

    Raises:
        RowsError: it holds none.
    """
    value = value_of(cell.text.replace(",", ".") if comma and DECIMAL_COMMA.fullmatch(cell.text.strip()) else cell.text)
    if value is None:
        advice = ""
        if _GROUPS.fullmatch(cell.text.strip()) or DECIMAL_COMMA.fullmatch(cell.text.strip()):
            advice = ": write numbers with a decimal point and no separators of thousands"
        raise RowsError(f"row {cell.row}, column {cell.column}: {cut(cell.text)!r} is not a finite number{advice}")
    return value


def value_of(cell: str) -> float | None:
    """The finite number in a cell, else None; `1_000` is not a number here, though it is in Python."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def cut(cell: str, most: int = 60) -> str:
    return cell if len(cell) <= most else f"{cell[:most]}…"


def some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
