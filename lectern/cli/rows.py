"""A CSV file as rows of the features that a model takes.

Spreadsheets write CSV in many ways: commas, semicolons, tabs or bars between cells, a first line `sep=;`, UTF-8 or
UTF-16, points or commas in numbers, empty rows at the end. All of these are read; a number that can be read in two ways
is refused.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lectern.cli.files import read
from lectern.cli.output import WRONG_USAGE, fail
from lectern.kinds import DELIMITERS, NotTextError, decode_text

ROWS_PER_REQUEST = 4096
_MAX_BYTES = 2**29  # a table is sent in many requests
_MAX_CELL = 2**31 - 1  # characters; the file's size is limited when it is read
_LINE_END = re.compile(r"\r\n|\r|\n")
_SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_GROUPS = re.compile(r"[-+]?\d{1,3}(?:[,. '’_\u00a0\u202f]\d{3})+(?:[.,]\d*)?")  # such as 1,234,567.8
_THOUSANDS = re.compile(r"[-+]?\d{1,3},\d{3}")


class RowsError(ValueError):
    """The table does not have the model's features; the message names row and column."""


class _Row(NamedTuple):
    number: int  # of its last line, from 1
    cells: list[str]


def read_table(file: Path, features: Sequence[str]) -> list[list[float]]:
    """The rows of a CSV file, or of standard input for `-`; see `read_rows`.

    Raises:
        typer.Exit: it cannot be read, is not text, or its table does not have the features.
    """
    return table_of(file, read(file, _MAX_BYTES), features)


def table_of(file: Path, content: bytes, features: Sequence[str]) -> list[list[float]]:
    """The rows of a CSV file with this content; see `read_table`."""
    try:
        return read_rows([decode_text(content)], features)
    except NotTextError as error:
        fail(f"{file}: not a CSV file: {error}", WRONG_USAGE)
    except RowsError as error:
        fail(f"{file}: {error}", WRONG_USAGE)


def read_rows(lines: Iterable[str], features: Sequence[str]) -> list[list[float]]:
    """The features of each row of a table, in the order of `features`; lines include their ends.

    A header selects columns by name and other columns are ignored; repeated names are numbered as pandas does (`cli`,
    `cli.1`, ...). Without a header there must be as many columns as features. Rows are numbered as in a spreadsheet:
    the first line of the file is row 1. Empty rows are left out.

    Raises:
        RowsError: no rows, a missing column, a row of another length, or a cell that is not a finite number.
    """
    text = "".join(lines)
    delimiter = _delimiter(text, features)
    rows = _rows(text, delimiter)
    first = next(rows, None)
    if first is None:
        raise RowsError("there are no rows")
    if _is_header(first.cells, features, delimiter):
        columns, width, table = _positions(first.cells, features), len(first.cells), []
    else:
        columns, width, table = list(range(len(features))), len(features), [first]
        if len(_trimmed(first.cells, width)) != width:
            raise RowsError(
                f"row {first.number} has {len(first.cells)} columns, the model takes {width} features: "
                f"{_some(features)}"
            )
    for row in rows:
        if len(_trimmed(row.cells, width)) != width:
            raise RowsError(f"row {row.number} has {len(row.cells)} columns, not {width}")
        table.append(row)
    if not table:
        raise RowsError("there are no rows below the header")
    named = list(zip(columns, features, strict=True))
    comma = _decimal_comma(table, named, delimiter)
    return [[_number(row, column, feature, comma) for column, feature in named] for row in table]


def _rows(text: str, delimiter: str) -> Iterator[_Row]:
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
            if reader.line_num == 1 and _SEPARATOR.match(text):
                continue
            if any(cell.strip() for cell in cells):
                yield _Row(reader.line_num, cells)
    except csv.Error as error:
        raise RowsError(f"row {reader.line_num + 1} cannot be read: {error}") from None


def _delimiter(text: str, features: Sequence[str]) -> str:
    """The character between cells: the one of Excel's first line, else the one with which the first row fits best."""
    if separator := _SEPARATOR.match(text):
        return separator[1]

    def fit(delimiter: str) -> tuple[int, bool, int]:
        row = next(_rows(text, delimiter), None)
        cells = row.cells if row else []
        known = sum(cell.strip() in features for cell in cells)
        return known, len(_trimmed(cells, len(features))) == len(features), len(cells)

    return max(DELIMITERS, key=fit)  # the first of equals: a comma


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Cells without empty ones beyond `width`."""
    return cells[:width] if not any(cell.strip() for cell in cells[width:]) else cells


def _is_header(cells: Sequence[str], features: Sequence[str], delimiter: str) -> bool:
    def is_number(cell: str) -> bool:
        return _value(cell) is not None or (delimiter != "," and _DECIMAL_COMMA.fullmatch(cell.strip()) is not None)

    return any(cell.strip() in features for cell in cells) or not any(map(is_number, cells))


def _positions(header: Sequence[str], features: Sequence[str]) -> list[int]:
    seen: Counter[str] = Counter()
    positions: dict[str, int] = {}
    for position, name in enumerate(cell.strip() for cell in header):
        positions[f"{name}.{seen[name]}" if seen[name] else name] = position
        seen[name] += 1
    if missing := [feature for feature in features if feature not in positions]:
        raise RowsError(f"{len(missing)} of {len(features)} columns are missing: {_some(missing)}")
    return [positions[feature] for feature in features]


def _decimal_comma(table: Sequence[_Row], named: Sequence[tuple[int, str]], delimiter: str) -> bool:
    """Whether the numbers of the table have decimal commas.

    Raises:
        RowsError: the table has `1,234`, and nothing tells whether that is 1234 or 1.234.
    """
    cells = [(row, feature, row.cells[column].strip()) for row in table for column, feature in named]
    commas = [(row, feature, cell) for row, feature, cell in cells if _DECIMAL_COMMA.fullmatch(cell)]
    if not commas or any("." in cell for _, _, cell in cells):
        return False
    # Programs that write decimal commas put semicolons between cells. With another delimiter, some number must show it.
    if delimiter != ";" and all(_THOUSANDS.fullmatch(cell) for _, _, cell in commas):
        row, feature, cell = commas[0]
        point, plain = cell.replace(",", "."), cell.replace(",", "")
        raise RowsError(f"row {row.number}, column {feature}: {cell!r} may be {point} or {plain}: write one of these")
    return True


def _number(row: _Row, column: int, feature: str, comma: bool) -> float:
    cell = row.cells[column]
    value = _value(cell.replace(",", ".") if comma and _DECIMAL_COMMA.fullmatch(cell.strip()) else cell)
    if value is None:
        advice = ""
        if _GROUPS.fullmatch(cell.strip()) or _DECIMAL_COMMA.fullmatch(cell.strip()):
            advice = ": write numbers with a decimal point and no separators of thousands"
        raise RowsError(f"row {row.number}, column {feature}: {_cut(cell)!r} is not a finite number{advice}")
    return value


def _value(cell: str) -> float | None:
    """The finite number in a cell, else None; `1_000` is not a number here, though it is in Python."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def _cut(cell: str, most: int = 60) -> str:
    return cell if len(cell) <= most else f"{cell[:most]}…"


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
