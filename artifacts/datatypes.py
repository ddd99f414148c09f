"""Types of the values in tensors, as Triton and the Open Inference Protocol name them."""

from __future__ import annotations

import numpy as np

# Triton's names of data types, as in config.pbtxt (without TYPE_) and in the Open Inference Protocol.
DTYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
