"""Static 8-bit quantisation of ONNX graphs with ONNX Runtime's own tools."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION_BATCH = 64


def quantize(content: bytes, examples: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The graph of the ONNX file `content` with activations as uint8 and weights as int8 of 7 bits, a scale for each
    channel.

    Of 7 bits, since CPUs without VNNI add two products of uint8 and int8 in 16 bits, which 255 x 127 x 2 overflows:
    with weights of at most 64 a sum is exact on every CPU.

    Args:
        examples: for each input, real items along the batch axis; their ranges fix the scales of activations.
    """
    logging.getLogger().setLevel(logging.ERROR)  # both steps log advice that is followed here
    with TemporaryDirectory() as directory:
        source, prepared, target = (Path(directory) / f"{step}.onnx" for step in ("source", "prepared", "target"))
        source.write_bytes(content)
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            target,
            _Batches(examples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        return target.read_bytes()


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, examples: Mapping[str, NDArray[np.generic]]) -> None:
        size = len(next(iter(examples.values())))
        starts = range(0, size, CALIBRATION_BATCH)
        self._batches = iter([{n: v[i : i + CALIBRATION_BATCH] for n, v in examples.items()} for i in starts])

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return next(self._batches, None)
