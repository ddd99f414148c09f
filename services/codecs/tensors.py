"""Converts tensors of the Open Inference Protocol to NumPy arrays and back, and rows of features to a matrix."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services import pools
from services.errors import InvalidArgument
from services.limits import Limits
from services.runtime.config import TensorSpec

Array = NDArray[Any]

# Fields of InferTensorContents by data type; the protocol has none for FP16.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


INLINE_ROWS = 64  # rows of features or results that take less than 1 ms


class Row(Protocol):
    """A message with repeated float `features`."""

    @property
    def features(self) -> Sequence[float]: ...


class Input:
    """Reads the tensors that one input of a graph takes; what depends on the graph alone is worked out once.

    Args:
        batched: whether the batch is the first axis, before those of `spec`.
    """

    def __init__(self, spec: TensorSpec, batched: bool, limits: Limits) -> None:
        self.name, self._datatype = spec.name, spec.datatype
        self._shape = (-1, *spec.shape) if batched else spec.shape
        self._batch_axes = int(batched)
        self._is_fixed = batched and -1 not in spec.shape
        self._longest = spec.longest or limits.axis_length
        self._dtype = spec.dtype.newbyteorder("<")
        self._contents = CONTENTS.get(spec.datatype)

    def check(self, shape: tuple[int, ...], datatype: str, field: str) -> None:
        """Check a tensor's data type and shape.

        Raises:
            InvalidArgument: another data type or shape, or an axis that is too long; says what is expected.
        """
        if datatype != self._datatype:
            raise InvalidArgument.field(
                f"{field}.datatype", f"is {datatype or 'empty'!r}; {self.name!r} takes {self._datatype}"
            )
        if self._is_fixed and shape[1:] == self._shape[1:] and shape[:1] > (0,):
            return
        wanted = self._shape
        # Some operators of ONNX Runtime never return on an empty tensor, so empty tensors are refused.
        if len(shape) != len(wanted) or not all(w in (-1, d) and d > 0 for d, w in zip(shape, wanted, strict=True)):
            raise InvalidArgument.field(f"{field}.shape", f"is {list(shape)}; {self.name!r} takes {list(wanted)}")
        for axis in range(self._batch_axes, len(wanted)):
            if wanted[axis] < 0 and shape[axis] > self._longest:
                raise InvalidArgument.field(
                    f"{field}.shape",
                    f"is {list(shape)}; axis {axis} of {self.name!r} has {self._longest:,} places at most",
                )

    def from_raw(self, raw: bytes, shape: tuple[int, ...], field: str) -> Array:
        """Little-endian row-major bytes as an array of `shape`; shares the bytes.

        Raises:
            InvalidArgument: the number of bytes does not fit the shape.
        """
        expected = self._dtype.itemsize * math.prod(shape)
        if len(raw) != expected:
            raise InvalidArgument.field(field, f"has {len(raw)} bytes; {self._datatype} {list(shape)} takes {expected}")
        return np.frombuffer(raw, self._dtype).reshape(shape)

    def from_contents(self, contents: Any, shape: tuple[int, ...], field: str) -> Array:
        """Typed contents (InferTensorContents) as an array of `shape`.

        Raises:
            InvalidArgument: the values are in the wrong field for the data type, too few, too many, or out of range.
        """
        filled = [descriptor.name for descriptor, _ in contents.ListFields()]
        name = self._contents
        if name is None:
            raise InvalidArgument.field(field, f"has no form for {self._datatype}; send raw_input_contents")
        if filled not in ([], [name]):
            raise InvalidArgument.field(field, f"has {', '.join(filled)}; {self._datatype} goes into {name}")
        values = getattr(contents, name)
        expected = math.prod(shape)
        if len(values) != expected:
            raise InvalidArgument.field(
                f"{field}.{name}", f"has {len(values)} values; the shape {list(shape)} takes {expected}"
            )
        try:
            return np.array(values, dtype=self._dtype).reshape(shape)
        except OverflowError:
            raise InvalidArgument.field(
                f"{field}.{name}", f"has a value outside the range of {self._datatype}"
            ) from None


def to_raw(array: Array) -> bytes:
    """Little-endian row-major bytes."""
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities `[N, C]` of logits `[N, C]`."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


async def matrix_of(
    rows: Sequence[Row], features: Sequence[str], limits: Limits, field: str = "rows"
) -> NDArray[np.float32]:
    """As `rows_to_matrix`, but many rows are converted off the event loop."""
    return await pools.inline_or_codecs(len(rows) <= INLINE_ROWS, rows_to_matrix, rows, features, limits, field)


def rows_to_matrix(
    rows: Sequence[Row], features: Sequence[str], limits: Limits, field: str = "rows"
) -> NDArray[np.float32]:
    """Rows of features as float32 `[N, len(features)]`.

    Raises:
        InvalidArgument: there are no rows or too many, a row has another length, or a value is not finite; names the
            field.
    """
    if not rows:
        raise InvalidArgument.field(field, "is empty; send at least one row")
    if len(rows) > limits.rows:
        raise InvalidArgument.field(field, f"has {len(rows)} rows; the most in one request is {limits.rows}")
    for i, row in enumerate(rows):
        if len(row.features) != len(features):
            raise InvalidArgument.field(
                f"{field}[{i}].features", f"has {len(row.features)} values; the model takes {len(features)}"
            )
    matrix = np.array([row.features for row in rows], dtype=np.float32)
    if not np.isfinite(matrix).all():
        i, j = np.argwhere(~np.isfinite(matrix))[0]
        raise InvalidArgument.field(
            f"{field}[{i}].features[{j}]", f"({features[j]}) is {matrix[i, j]}; send a finite number"
        )
    return matrix
