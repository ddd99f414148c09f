"""A CSV file as rows of the features that a model takes; `lectern.cli.cells` reads its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lectern.cli.cells import (
    MAX_TABLE_BYTES,
    SEPARATOR,
    Cell,
    RowsError,
    has_decimal_comma,
    is_number,
    number_of,
    rows_of,
    some,
    trimmed,
)
from lectern.cli.files import read
from lectern.cli.output import WRONG_USAGE, fail
from lectern.kinds import DELIMITERS, NotTextError, decode_text

ROWS_PER_REQUEST = 4096


def read_table(file: Path, features: Sequence[str]) -> list[list[float]]:
    """The rows of a CSV file, or of standard input for `-`; see `read_rows`.

    Raises:
        typer.Exit: it cannot be read, is not text, or its table does not have the features.
    """
    return table_of(file, read(file, MAX_TABLE_BYTES), features)


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
    rows = rows_of(text, delimiter)
    first = next(rows, None)
    if first is None:
        raise RowsError("there are no rows")
    if _is_header(first.cells, features, delimiter):
        columns, width, table = _positions(first.cells, features), len(first.cells), []
    else:
        columns, width, table = list(range(len(features))), len(features), [first]
        if len(trimmed(first.cells, width)) != width:
            raise RowsError(
                f"row {first.number} has {len(first.cells)} columns, the model takes {width} features: {some(features)}"
            )
    for row in rows:
        if len(trimmed(row.cells, width)) != width:
            raise RowsError(f"row {row.number} has {len(row.cells)} columns, not {width}")
        table.append(row)
    if not table:
        raise RowsError("there are no rows below the header")
    named = list(zip(columns, features, strict=True))
    cells = [[Cell(row.number, feature, row.cells[column]) for column, feature in named] for row in table]
    comma = has_decimal_comma([cell for row in cells for cell in row], delimiter)
    return [[number_of(cell, comma) for cell in row] for row in cells]


def _delimiter(text: str, features: Sequence[str]) -> str:
    """The character between cells: the one of Excel's first line, else the one with which the first row fits best."""
    if separator := SEPARATOR.match(text):
        return separator[1]

    def fit(delimiter: str) -> tuple[int, bool, int]:
        row = next(rows_of(text, delimiter), None)
        cells = row.cells if row else []
        known = sum(cell.strip() in features for cell in cells)
        return known, len(trimmed(cells, len(features))) == len(features), len(cells)

    return max(DELIMITERS, key=fit)  # the first of equals: a comma


def _is_header(cells: Sequence[str], features: Sequence[str], delimiter: str) -> bool:
    return any(cell.strip() in features for cell in cells) or not any(is_number(cell, delimiter) for cell in cells)


def _positions(header: Sequence[str], features: Sequence[str]) -> list[int]:
    seen: Counter[str] = Counter()
    positions: dict[str, int] = {}
    for position, name in enumerate(cell.strip() for cell in header):
        positions[f"{name}.{seen[name]}" if seen[name] else name] = position
        seen[name] += 1
    if missing := [feature for feature in features if feature not in positions]:
        raise RowsError(f"{len(missing)} of {len(features)} columns are missing: {some(missing)}")
    return [positions[feature] for feature in features]
