"""Open Inference Protocol tensors to NumPy arrays and back, and rows of features to a matrix."""

from __future__ import annotations

import math
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


INLINE_ROWS = 64  # of features or results, which take less than 1 ms


class Row(Protocol):
    """A message with repeated float `features`."""

    @property
    def features(self) -> Sequence[float]: ...


def check_shape(spec: TensorSpec, shape: Sequence[int], datatype: str, batched: bool, field: str) -> None:
    """Check a tensor's header against what the graph takes.

    Raises:
        InvalidArgument: another data type or shape; says which were expected.
    """
    if datatype != spec.datatype:
        raise InvalidArgument.field(
            f"{field}.datatype", f"is {datatype or 'empty'!r}; {spec.name!r} takes {spec.datatype}"
        )
    wanted = (-1, *spec.shape) if batched else spec.shape
    # ONNX Runtime does not come back from some operators on an empty tensor, so none is let in.
    if len(shape) != len(wanted) or not all(w in (-1, d) and d > 0 for d, w in zip(shape, wanted, strict=True)):
        raise InvalidArgument.field(f"{field}.shape", f"is {list(shape)}; {spec.name!r} takes {list(wanted)}")


def from_raw(raw: bytes, spec: TensorSpec, shape: Sequence[int], field: str) -> Array:
    """Little-endian row-major bytes as an array of `shape`; shares the bytes.

    Raises:
        InvalidArgument: the number of bytes does not fit the shape.
    """
    dtype = spec.dtype
    expected = dtype.itemsize * math.prod(shape)
    if len(raw) != expected:
        raise InvalidArgument.field(field, f"has {len(raw)} bytes; {spec.datatype} {list(shape)} takes {expected}")
    return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).reshape(shape)


def from_contents(contents: Any, spec: TensorSpec, shape: Sequence[int], field: str) -> Array:
    """Typed contents (InferTensorContents) as an array of `shape`.

    Raises:
        InvalidArgument: the values are in another field than the data type's, too few or many, or out of range.
    """
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    name = CONTENTS.get(spec.datatype)
    if name is None:
        raise InvalidArgument.field(field, f"has no form for {spec.datatype}; send raw_input_contents")
    if filled not in ([], [name]):
        raise InvalidArgument.field(field, f"has {', '.join(filled)}; {spec.datatype} goes into {name}")
    values = getattr(contents, name)
    expected = math.prod(shape)
    if len(values) != expected:
        raise InvalidArgument.field(
            f"{field}.{name}", f"has {len(values)} values; the shape {list(shape)} takes {expected}"
        )
    try:
        return np.array(values, dtype=spec.dtype).reshape(shape)
    except OverflowError:
        raise InvalidArgument.field(f"{field}.{name}", f"has a value outside the range of {spec.datatype}") from None


def to_raw(array: Array) -> bytes:
    """Little-endian row-major bytes."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities `[N, C]` of logits `[N, C]`."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


async def matrix_of(
    rows: Sequence[Row], features: Sequence[str], limits: Limits, field: str = "rows"
) -> NDArray[np.float32]:
    """As `rows_to_matrix`, apart from the event loop if there are many."""
    return await pools.inline_or_codecs(len(rows) <= INLINE_ROWS, rows_to_matrix, rows, features, limits, field)


def rows_to_matrix(
    rows: Sequence[Row], features: Sequence[str], limits: Limits, field: str = "rows"
) -> NDArray[np.float32]:
    """Rows of features as float32 `[N, len(features)]`.

    Raises:
        InvalidArgument: none or too many rows, one of another length, or a value that is not finite; names the field.
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
