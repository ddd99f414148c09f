"""Joins requests to one batch and parts its outputs again; pads rows to one length if the config asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from services.runtime.config import GraphConfig, Padding
from services.runtime.graph import Array

Shapes = tuple[tuple[int, ...], ...]


class Kind(NamedTuple):
    """What requests must have in common to run together.

    Args:
        shapes: shapes of their arrays without the batch axis, the padded axis rounded up.
        rows: most rows in one batch.
        length: length of the padded axis, rounded up, which determines the cost of a row; 1 = no axis is padded.
    """

    shapes: Shapes
    rows: int
    length: int


class Batching:
    """How the requests of one graph are joined and their outputs parted.

    Args:
        rows: most rows in one batch: as the config says, or fewer.
    """

    def __init__(self, config: GraphConfig, rows: int) -> None:
        self._most_rows = max(1, rows)
        self._padding = config.padding
        padded = config.padding is not None
        self._padded = [padded and -1 in spec.shape for spec in config.inputs]
        self._cut = [[i for i, size in enumerate(spec.shape, 1) if padded and size < 0] for spec in config.outputs]

    def length(self, arrays: Sequence[Array]) -> int:
        """Length of the padded axis; 1 if no axis is padded."""
        if self._padding is None:
            return 1
        length: int = arrays[self._padded.index(True)].shape[self._padding.axis]
        return length

    def kind(self, arrays: Sequence[Array]) -> Kind:
        """The kind of a request with these arrays."""
        shapes = tuple([a.shape[1:] for a in arrays])
        padding = self._padding
        if padding is None:
            return Kind(shapes, self._most_rows, 1)
        length = -(-self.length(arrays) // padding.multiple) * padding.multiple
        axis = padding.axis - 1
        rounded = tuple(
            (*shape[:axis], length, *shape[padding.axis :]) if padded else shape
            for shape, padded in zip(shapes, self._padded, strict=True)
        )
        return Kind(rounded, max(1, min(self._most_rows, padding.budget // length)), length)

    def joined(self, requests: Sequence[tuple[Array, ...]]) -> Sequence[Array]:
        """The arrays of requests of one kind as one batch, padded to the longest."""
        if len(requests) == 1:
            return requests[0]
        columns, padding = zip(*requests, strict=True), self._padding
        if padding is None:
            return [np.concatenate(column) for column in columns]
        return [
            _padded(column, padding) if padded else np.concatenate(column)
            for column, padded in zip(columns, self._padded, strict=True)
        ]

    def parted(self, outputs: Sequence[Array], sizes: Sequence[tuple[int, int]]) -> list[list[Array]]:
        """The outputs of a batch for each of its requests, given the rows and the length of each."""
        if len(sizes) == 1:
            return [list(outputs)]
        longest = max(length for _, length in sizes)
        parts, start = [], 0
        for rows, length in sizes:
            own = [column[start : start + rows] for column in outputs]
            if length < longest:
                own = [_cut(column, axes, length) for column, axes in zip(own, self._cut, strict=True)]
            parts.append(own)
            start += rows
        return parts


def _padded(arrays: Sequence[Array], padding: Padding) -> Array:
    """Concatenate arrays, each padded at its end to the longest."""
    axis = padding.axis
    lengths = [array.shape[axis] for array in arrays]
    if len(set(lengths)) == 1:
        return np.concatenate(arrays)
    shape = list(arrays[0].shape)
    shape[0], shape[axis] = sum(map(len, arrays)), max(lengths)
    whole = np.full(shape, padding.value, arrays[0].dtype)
    start = 0
    for array, length in zip(arrays, lengths, strict=True):
        _cut(whole[start : start + len(array)], [axis], length)[...] = array
        start += len(array)
    return whole


def _cut(array: Array, axes: Sequence[int], length: int) -> Array:
    """The first `length` places of these axes."""
    index = [slice(None)] * array.ndim
    for axis in axes:
        index[axis] = slice(length)
    return array[tuple(index)]
