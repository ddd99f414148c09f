"""The classification extension: an output as its largest values, for callers who want classes and not tensors.

Specification: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from services.codecs.tensors import Array

KINDS = "iuf"  # of NumPy's: signed, unsigned, floating point


def largest(array: Array, count: int, batched: bool, labels: Sequence[str]) -> tuple[list[int], bytes]:
    """Shape and content of the BYTES tensor that stands for an output.

    Args:
        array: the output; of numbers, the batch first if `batched`.
        count: how many values of each item; all, where it has fewer.
        labels: by index within an item; used if there is one for each.

    Returns:
        `[N, count]`, or `[count]` without a batch, and its elements, each with its length before it:
        `value:index:label`, or `value:index`, the largest first.
    """
    rows = array.reshape(len(array) if batched else 1, -1)
    width = rows.shape[1]
    count = min(count, width)
    is_float = array.dtype.kind == "f"
    # Both turn the order of numbers round; a minus would overflow in unsigned integers.
    order = np.argsort(-rows if is_float else ~rows, axis=1, kind="stable")[:, :count]
    parts: list[bytes] = []
    for row, indices in zip(rows, order.tolist(), strict=True):
        for index in indices:
            text = f"{row[index]:f}:{index}" if is_float else f"{row[index]}:{index}"
            element = (f"{text}:{labels[index]}" if len(labels) == width else text).encode()
            parts.append(struct.pack("<I", len(element)) + element)
    return [len(rows), count] if batched else [count], b"".join(parts)
