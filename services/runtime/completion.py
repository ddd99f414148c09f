"""What `config.pbtxt` leaves out, taken from the graph, as Triton completes it.

Source: "Auto-Generated Model Configuration" in
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from inference.model_config_pb2 import DataType, ModelConfig
from services.runtime.config import ConfigError
from services.runtime.external_data import OnnxModel

BATCH = 32  # rows of a run where the graph takes any number and the config does not say how many
NO_MODEL = "cannot load the graph: it is not an ONNX model"
_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
# TensorProto.DataType of onnx.proto -> Triton's names.
_TYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "STRING",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


def completed(message: ModelConfig, name: str, content: bytes) -> ModelConfig:
    """The config of the graph `content`, with what `message` says and, where it says nothing, what the graph does.

    Raises:
        ConfigError: there is no graph, or an input or output is no tensor.
    """
    config = ModelConfig()
    config.CopyFrom(message)
    config.name = config.name or name
    if not config.backend and config.platform in ("", _PLATFORM):
        config.backend, config.platform = _BACKEND, ""
    if config.input and config.output:
        return config
    model: Any = _parsed(content)
    if not model.graph:
        raise ConfigError(NO_MODEL)
    graph = model.graph[0]
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shapes = {value.name: _shape(value) for value in (*inputs, *graph.output)}
    batched = bool(config.max_batch_size) or all(shape[:1] == [-1] for shape in shapes.values())
    if batched and not config.max_batch_size:
        config.max_batch_size = BATCH
        config.dynamic_batching.SetInParent()
    for values, described in ((inputs, config.input), (graph.output, config.output)):
        if not described:
            for value in values:
                datatype = DataType.Value(f"TYPE_{_TYPES[_tensor_type(value).elem_type]}")
                described.add(name=value.name.decode(), data_type=datatype, dims=shapes[value.name][batched:])
    return config


def _parsed(content: bytes) -> Any:
    """The ONNX model.

    Raises:
        ConfigError: it is none.
    """
    try:
        return OnnxModel.FromString(content)
    except DecodeError as error:
        raise ConfigError(NO_MODEL) from error


def _tensor_type(value: Any) -> Any:
    """The type of an input or output.

    Raises:
        ConfigError: it is no tensor, or of numbers that no config names.
    """
    tensors: Sequence[Any] = [tensor for kind in value.type for tensor in kind.tensor_type]
    if len(tensors) != 1 or tensors[0].elem_type not in _TYPES:
        raise ConfigError(
            f"{value.name.decode()!r} of the graph is no tensor that is served, but a sequence or map: "
            "`lectern add` takes scikit-learn's ZipMap out"
        )
    return tensors[0]


def _shape(value: Any) -> list[int]:
    """The lengths of its axes; -1 = any."""
    dimensions = [d for shape in _tensor_type(value).shape for d in shape.dim]
    return [d.dim_value if d.dim_value > 0 else -1 for d in dimensions]
