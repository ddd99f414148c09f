"""A CSV file as rows of the features that a model takes."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lectern.cli.output import WRONG_USAGE, fail, read


class RowsError(ValueError):
    """The table is not one of the model's features; the message names row and column."""


def read_table(file: Path, features: Sequence[str]) -> list[list[float]]:
    """The rows of a CSV file, or of standard input for `-`; see `read_rows`.

    Raises:
        typer.Exit: it cannot be read, it is not UTF-8 text, or its table is not one of the features.
    """
    try:
        # Spreadsheets begin a file with a mark.
        return read_rows(read(file).decode("utf-8-sig").splitlines(keepends=True), features)
    except UnicodeDecodeError:
        fail(f"{file}: not a CSV file (its text is not UTF-8)", WRONG_USAGE)
    except RowsError as error:
        fail(f"{file}: {error}", WRONG_USAGE)


def read_rows(lines: Iterable[str], features: Sequence[str]) -> list[list[float]]:
    """The features of each row, in their order.

    A first line with names picks columns by name, others are ignored; repeated names are numbered as pandas does
    (`cli`, `cli.1`, ...). Without names there must be as many columns as features. Rows are counted as a spreadsheet
    does: the first line of the file is row 1.

    Raises:
        RowsError: no rows, a missing column, a row of another length, or a cell that is not a finite number.
    """
    reader = csv.reader(lines)
    numbered = ((reader.line_num, cells) for cells in reader if cells)
    first = next(numbered, None)
    if first is None:
        raise RowsError("there are no rows")
    number, cells = first
    if _is_header(cells, features):
        columns, width = _positions(cells, features), len(cells)
        rows = []
    else:
        columns, width = list(range(len(features))), len(features)
        if len(cells) != width:
            raise RowsError(
                f"row {number} has {len(cells)} columns, the model takes {width} features: {_some(features)}"
            )
        rows = [_numbers(cells, number, columns, features)]
    for number, cells in numbered:
        if len(cells) != width:
            raise RowsError(f"row {number} has {len(cells)} columns, not {width}")
        rows.append(_numbers(cells, number, columns, features))
    if not rows:
        raise RowsError("there are no rows below the header")
    return rows


def _is_header(cells: Sequence[str], features: Sequence[str]) -> bool:
    return any(cell.strip() in features for cell in cells) or not any(_is_number(cell) for cell in cells)


def _positions(header: Sequence[str], features: Sequence[str]) -> list[int]:
    seen: Counter[str] = Counter()
    positions: dict[str, int] = {}
    for position, name in enumerate(cell.strip() for cell in header):
        positions[f"{name}.{seen[name]}" if seen[name] else name] = position
        seen[name] += 1
    if missing := [feature for feature in features if feature not in positions]:
        raise RowsError(f"{len(missing)} of {len(features)} columns are missing: {_some(missing)}")
    return [positions[feature] for feature in features]


def _numbers(cells: Sequence[str], number: int, columns: Sequence[int], features: Sequence[str]) -> list[float]:
    values = []
    for column, feature in zip(columns, features, strict=True):
        if not _is_number(cells[column]):
            raise RowsError(f"row {number}, column {feature}: {cells[column]!r} is not a finite number")
        values.append(float(cells[column]))
    return values


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
