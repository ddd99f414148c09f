"""Tables with examples: the classes that they show, the rows that a model looks at, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.card import ExamplesPreprocessing
from lectern.v1 import predict_pb2 as pb
from lectern.v1.notice_pb2 import Notice
from services import notices
from services.codecs.tensors import Row
from services.errors import InvalidArgument
from services.limits import Limits

FEWEST_CLASSES = 2
FAR = 1.0  # of a column's range, beyond which a value is far from all examples
EXAMPLES, QUERIES = "examples", "queries"


@dataclass(frozen=True)
class LearnedFrom:
    """What a model learns from.

    Args:
        rows, labels: of the examples it looks at, float32 [S, F] and int64 [S].
        classes: the distinct labels, sorted, so that the order of the examples does not matter.
        columns: their names.
        lowest, highest: of each column, [F]; NaN where all its cells are empty.
        notices: about all answers.
    """

    rows: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    lowest: NDArray[np.float32]
    highest: NDArray[np.float32]
    notices: tuple[Notice, ...]


def learned_from(request: pb.PredictFromExamplesRequest, kind: ExamplesPreprocessing, limits: Limits) -> LearnedFrom:
    """The examples of a request.

    Raises:
        InvalidArgument: there are too few or too many rows, columns or classes, an example lacks its label, a row has
            another length, a value is infinite, or no column differs between examples; names the field.
    """
    examples = request.examples
    _check_count(len(examples), FEWEST_CLASSES, limits.rows, EXAMPLES)
    columns = _columns(request, kind.max_features)
    for i, example in enumerate(examples):
        if not example.label:
            raise InvalidArgument.field(f"{EXAMPLES}[{i}].label", "is empty; name the row's class")
    classes = tuple(sorted({example.label for example in examples}))
    if not FEWEST_CLASSES <= len(classes) <= kind.max_classes:
        shown = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
        advice = f"send examples of {FEWEST_CLASSES} to {kind.max_classes}"
        advice += ", since this model predicts no numbers" if len(classes) > kind.max_classes else ""
        raise InvalidArgument.field(EXAMPLES, f"show {shown}; {advice}")
    numbers = {label: i for i, label in enumerate(classes)}
    labels = np.array([numbers[example.label] for example in examples])
    rows = _matrix(examples, columns, EXAMPLES)
    kept = thinned(labels, kind.max_examples)
    rows, labels = rows[kept], labels[kept]
    some = np.where(np.isnan(rows), np.inf, rows).min(axis=0)
    lowest, highest = (np.where(np.isinf(some), np.nan, np.fmin.reduce(rows)), np.fmax.reduce(rows))
    same = ~(highest > lowest)
    if same.all():
        raise InvalidArgument.field(EXAMPLES, "are the same in every column: there is nothing to tell classes by")
    idle = [name for name, idle in zip(columns, same, strict=True) if idle]
    doubts = [
        *notices.left_out_rows(len(examples), len(kept), EXAMPLES),
        *notices.left_out_columns(idle, EXAMPLES),
    ]
    return LearnedFrom(rows, labels, classes, columns, lowest, highest, tuple(doubts))


def thinned(labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Which rows to keep, in order: all, or `most`, evenly spaced in each class, of which each keeps its share and at
    least one."""
    if len(labels) <= most:
        return np.arange(len(labels))
    by_class = np.argsort(labels, kind="stable")  # evenly spaced places in this order take an even share of each class
    firsts = by_class[np.flatnonzero(np.diff(labels[by_class], prepend=-1))]
    others = np.setdiff1d(by_class, firsts, assume_unique=True)
    others = others[np.argsort(labels[others], kind="stable")]
    spaced = np.linspace(0, len(others), most - len(firsts), endpoint=False).astype(np.int64)
    return np.sort(np.concatenate([firsts, others[spaced]]))


def queries_of(request: pb.PredictFromExamplesRequest, table: LearnedFrom, limits: Limits) -> NDArray[np.float32]:
    """The queries of a request, float32 [Q, F].

    Raises:
        InvalidArgument: there are none or too many, one has another number of columns, or a value is infinite.
    """
    _check_count(len(request.queries), 1, limits.rows, QUERIES)
    return _matrix(request.queries, table.columns, QUERIES)


def notices_of(
    table: LearnedFrom, query: NDArray[np.float32], number: int, probability: float, unsure: float
) -> list[Notice]:
    """Reasons to doubt one answer."""
    field = f"{QUERIES}[{number}]"
    room = FAR * (table.highest - table.lowest)
    far = (query < table.lowest - room) | (query > table.highest + room)  # NaN is not far
    names = [table.columns[i] for i in np.flatnonzero(far & (room > 0))]
    return [*notices.out_of_range(names, field), *notices.unsure(probability, unsure, field)]


def _check_count(count: int, least: int, most: int, field: str) -> None:
    if count < least:
        raise InvalidArgument.field(field, f"has {count} rows; send at least {least}")
    if count > most:
        raise InvalidArgument.field(field, f"has {count} rows; the most in one request is {most}")


def _columns(request: pb.PredictFromExamplesRequest, most: int) -> tuple[str, ...]:
    """The names of the columns, or their numbers."""
    count = len(request.examples[0].features)
    if not 1 <= count <= most:
        advice = f"send 1 to {most}, those that matter most"
        raise InvalidArgument.field(EXAMPLES, f"have {count} columns; {advice}")
    if request.columns and len(request.columns) != count:
        raise InvalidArgument.field("columns", f"has {len(request.columns)} names; the examples have {count} columns")
    return tuple(request.columns) or tuple(f"column {i}" for i in range(count))


def _matrix(rows: Sequence[Row], columns: Sequence[str], field: str) -> NDArray[np.float32]:
    for i, row in enumerate(rows):
        if len(row.features) != len(columns):
            raise InvalidArgument.field(
                f"{field}[{i}].features", f"has {len(row.features)} values; the first example has {len(columns)}"
            )
    matrix = np.array([row.features for row in rows], dtype=np.float32)
    if np.isinf(matrix).any():
        i, j = np.argwhere(np.isinf(matrix))[0]
        raise InvalidArgument.field(
            f"{field}[{i}].features[{j}]", f"({columns[j]}) is infinite; send a finite number, or NaN for an empty cell"
        )
    return matrix
