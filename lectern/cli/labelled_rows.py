"""CSV files of rows with a class and of rows without, as numbers of the same columns; `lectern.cli.cells` reads cells.

A column of texts becomes a column of numbers: its categories, sorted, are counted from 0. Empty cells, and what
programs write into them, are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lectern.cli.cells import (
    MAX_TABLE_BYTES,
    SEPARATOR,
    Cell,
    Row,
    RowsError,
    cut,
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

EMPTY = {"", "?", "-", "na", "n/a", "nan", "null", "none", "#n/a"}
MOST_CATEGORIES = 20  # of a column; one with more different texts holds names or sentences
FIRST_ROWS = 20  # by which a file's delimiter is known


@dataclass(frozen=True)
class Column:
    """A column of the examples.

    Args:
        position: among the cells of a row.
        categories: of a column of texts; empty = it holds numbers.
        comma: whether its numbers have decimal commas.
    """

    name: str
    position: int
    categories: tuple[str, ...] = ()
    comma: bool = False

    def value_of(self, cell: Cell) -> float:
        """The number in a cell, or that of its category; NaN where it is empty, or its category is not known.

        Raises:
            RowsError: it holds no number, and no category.
        """
        text = cell.text.strip()
        if text.lower() in EMPTY:
            return math.nan
        if self.categories:
            return float(self.categories.index(text)) if text in self.categories else math.nan
        try:
            return number_of(cell, self.comma)
        except RowsError as error:
            raise RowsError(f"{error}; other rows have numbers there: write one, or leave the cell empty") from None


@dataclass(frozen=True)
class Examples:
    """Rows with a class.

    Args:
        label: the name of the column with the class; with no header its number, from 1.
        has_header: whether the first row names the columns.
        notes: what was done to columns, for people.
    """

    columns: tuple[Column, ...]
    label: str
    label_position: int
    width: int
    has_header: bool
    rows: list[list[float]]
    labels: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Queries:
    """Rows to classify; `numbers` are those of their lines in the file, and `labels` their classes if it says them."""

    rows: list[list[float]]
    numbers: list[int]
    labels: list[str]
    notes: list[str]


def read_examples(file: Path, label: str | None) -> Examples:
    """The rows of a CSV file that has a class in the column `label`, by default the last.

    Raises:
        typer.Exit: it cannot be read, is no table, has no such column, or a row has no class.
    """
    content = read(file, MAX_TABLE_BYTES)
    try:
        return examples_of(decode_text(content), label)
    except (NotTextError, RowsError) as error:
        fail(f"{file}: {error}", WRONG_USAGE)


def read_queries(file: Path, examples: Examples) -> Queries:
    """The rows of a CSV file with the columns of the examples.

    Raises:
        typer.Exit: it cannot be read, is no table, or lacks a column.
    """
    content = read(file, MAX_TABLE_BYTES)
    try:
        return queries_of(decode_text(content), examples)
    except (NotTextError, RowsError) as error:
        fail(f"{file}: {error}", WRONG_USAGE)


def examples_of(text: str, label: str | None) -> Examples:
    """As `read_examples`, of a file's text.

    Raises:
        RowsError: it has no rows with classes in such a column; the message names row and column.
    """
    delimiter = _delimiter(text)
    header, table = _parted(text, delimiter, label)
    width = len(header) if header else len(table[0].cells)
    names = _unique(header) if header else [str(i + 1) for i in range(width)]
    if width < 2:
        raise RowsError(f"has one column only, {names[0]!r}: a class and the columns to tell it by are needed")
    if label is not None and label not in names:
        raise RowsError(f"has no column {label!r}; its columns are: {some(names)}")
    at = names.index(label) if label is not None else width - 1
    for row in table:
        if len(trimmed(row.cells, width)) != width:
            raise RowsError(f"row {row.number} has {len(row.cells)} columns, not {width}")
        if not row.cells[at].strip():
            raise RowsError(f"row {row.number} has no class in column {names[at]}: give it one, or leave it out here")
    columns, notes = [], []
    for position, name in enumerate(names):
        if position == at:
            continue
        column, note = _column(name, position, table, delimiter)
        notes += [note] if note else []
        columns += [column] if column else []
    if not columns:
        raise RowsError("has no column of numbers or of a few categories to tell classes by")
    rows = [[column.value_of(_cell(row, column)) for column in columns] for row in table]
    labels = [row.cells[at].strip() for row in table]
    return Examples(tuple(columns), names[at], at, width, header is not None, rows, labels, notes)


def queries_of(text: str, examples: Examples) -> Queries:
    """As `read_queries`, of a file's text.

    Raises:
        RowsError: it has no rows, or not the columns of the examples; the message names row and column.
    """
    delimiter = _delimiter(text)
    header, table = _parted(text, delimiter, examples.columns[0].name if examples.has_header else None)
    if examples.has_header and header is None:
        raise RowsError("has no header; the examples name their columns in the first row")
    names = _unique(header) if header else [str(i + 1) for i in range(len(table[0].cells))]
    labelled = examples.label in names and (header is not None or len(names) == examples.width)
    at = names.index(examples.label) if labelled else -1
    places = {name: i for i, name in enumerate(names)}
    if header is None and len(names) == examples.width - 1:  # without the column of the class
        places = {column.name: i for i, column in enumerate(examples.columns)}
    if missing := [column.name for column in examples.columns if column.name not in places]:
        raise RowsError(f"lacks {len(missing)} of the {len(examples.columns)} columns of the examples: {some(missing)}")
    rows, unknown = [], dict[str, set[str]]()
    for row in table:
        if len(trimmed(row.cells, len(names))) != len(names):
            raise RowsError(f"row {row.number} has {len(row.cells)} columns, not {len(names)}")
        cells = [Cell(row.number, column.name, row.cells[places[column.name]]) for column in examples.columns]
        rows.append([column.value_of(cell) for column, cell in zip(examples.columns, cells, strict=True)])
        for column, cell in zip(examples.columns, cells, strict=True):
            new = cell.text.strip()
            if column.categories and new not in column.categories and new.lower() not in EMPTY:
                unknown.setdefault(column.name, set()).add(new)
    notes = [
        f"column {name}: no example has {some([repr(cut(text)) for text in sorted(texts)], 5)}; taken for empty"
        for name, texts in unknown.items()
    ]
    labels = [row.cells[at].strip() for row in table] if labelled else []
    return Queries(rows, [row.number for row in table], labels if all(labels) else [], notes)


def _delimiter(text: str) -> str:
    """The character between cells: the one of Excel's first line, else the one that parts the first rows into the same
    number of cells, and into most."""
    if separator := SEPARATOR.match(text):
        return separator[1]

    def fit(delimiter: str) -> tuple[bool, int]:
        widths = [len(row.cells) for _, row in zip(range(FIRST_ROWS), rows_of(text, delimiter), strict=False)]
        return len(set(widths)) == 1, widths[0] if widths else 0

    parting = [delimiter for delimiter in DELIMITERS if fit(delimiter)[1] > 1]
    return max(parting or DELIMITERS, key=fit)  # the first of equals: a comma


def _parted(text: str, delimiter: str, known: str | None) -> tuple[list[str] | None, list[Row]]:
    """The header of a file, if its first row has the cell `known`, or no number; and its rows."""
    rows = list(rows_of(text, delimiter))
    if not rows:
        raise RowsError("there are no rows")
    first = [cell.strip() for cell in rows[0].cells]
    if known not in first and any(is_number(cell, delimiter) for cell in first):
        return None, rows
    if len(rows) == 1:
        raise RowsError("there are no rows below the header")
    return first, rows[1:]


def _unique(header: Sequence[str]) -> list[str]:
    """Names of columns; those that are empty are numbered, and repeated ones too, as pandas does."""
    names: list[str] = []
    for i, name in enumerate(header):
        plain, count = name or f"column {i + 1}", 0
        while (unique := f"{plain}.{count}" if count else plain) in names:
            count += 1
        names.append(unique)
    return names


def _column(name: str, position: int, table: Sequence[Row], delimiter: str) -> tuple[Column | None, str]:
    """A column as its cells show it, or None if it holds neither numbers nor categories; and what to say of it."""
    cells = [Cell(row.number, name, row.cells[position]) for row in table]
    filled = [cell for cell in cells if cell.text.strip().lower() not in EMPTY]
    if any(is_number(cell.text, delimiter) for cell in filled):
        return Column(name, position, comma=has_decimal_comma(filled, delimiter)), ""
    texts = sorted({cell.text.strip() for cell in filled})
    if not texts:
        return None, f"column {name}: is empty in every row, and left out"
    if len(texts) > MOST_CATEGORIES:
        return None, f"column {name}: has {len(texts)} different texts, which cannot be read; left out"
    return Column(
        name, position, tuple(texts)
    ), f"column {name}: {len(texts)} categories, counted in order of the alphabet"


def _cell(row: Row, column: Column) -> Cell:
    return Cell(row.number, column.name, row.cells[column.position])
