"""The classification extension: returns the largest values of an output as classes instead of a tensor.

Specification: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from services.codecs.tensors import Array

KINDS = "iuf"  # NumPy's kinds of signed, unsigned and floating-point types


def largest(array: Array, count: int, batched: bool, labels: Sequence[str]) -> tuple[list[int], bytes]:
    """Shape and content of the BYTES tensor that replaces an output.

    Args:
        array: the output, of numbers; the batch is the first axis if `batched`.
        count: values of each item; all of them if an item has fewer.
        labels: by index within an item; used if there is one for each value.

    Returns:
        `[N, count]`, or `[count]` without a batch, and its elements, each preceded by its length:
        `value:index:label` or `value:index`, the largest first.
    """
    rows = array.reshape(len(array) if batched else 1, -1)
    width = rows.shape[1]
    count = min(count, width)
    is_float = array.dtype.kind == "f"
    # Both reverse the order; a minus would overflow in unsigned integers.
    order = np.argsort(-rows if is_float else ~rows, axis=1, kind="stable")[:, :count]
    parts: list[bytes] = []
    for row, indices in zip(rows, order.tolist(), strict=True):
        for index in indices:
            text = f"{row[index]:f}:{index}" if is_float else f"{row[index]}:{index}"
            element = (f"{text}:{labels[index]}" if len(labels) == width else text).encode()
            parts.append(struct.pack("<I", len(element)) + element)
    return [len(rows), count] if batched else [count], b"".join(parts)
