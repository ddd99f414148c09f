"""Refuses graphs whose tensors lie in other files: a model must not make the server read a file of its choice.

ONNX Runtime reads such a file if it is below the working directory, even when it gets the graph as bytes.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

# The part of onnx.proto (https://onnx.ai/onnx/repo-docs/IR.html) that leads to tensors, and to the types and axes of
# inputs and outputs: number -> (field, type).
_MESSAGES = {
    "Model": {7: ("graph", "Graph"), 20: ("training_info", "Training"), 25: ("functions", "Function")},
    "Training": {1: ("initialization", "Graph"), 2: ("algorithm", "Graph")},
    "Graph": {
        1: ("node", "Node"),
        5: ("initializer", "Tensor"),
        11: ("input", "Value"),
        12: ("output", "Value"),
        15: ("sparse_initializer", "SparseTensor"),
    },
    "Function": {7: ("node", "Node"), 11: ("attribute_proto", "Attribute")},
    "Node": {5: ("attribute", "Attribute")},
    "Attribute": {
        5: ("t", "Tensor"),
        6: ("g", "Graph"),
        10: ("tensors", "Tensor"),
        11: ("graphs", "Graph"),
        22: ("sparse_tensor", "SparseTensor"),
        23: ("sparse_tensors", "SparseTensor"),
    },
    "SparseTensor": {1: ("values", "Tensor"), 2: ("indices", "Tensor")},
    "Tensor": {8: ("name", "bytes"), 13: ("external_data", "Entry"), 14: ("data_location", "int32")},
    "Value": {1: ("name", "bytes"), 2: ("type", "Type")},
    "Type": {1: ("tensor_type", "TensorType")},
    "TensorType": {1: ("elem_type", "int32"), 2: ("shape", "Shape")},
    "Shape": {1: ("dim", "Dimension")},
    "Dimension": {1: ("dim_value", "int64"), 2: ("dim_param", "bytes")},
    "Entry": {1: ("key", "bytes"), 2: ("value", "bytes")},
}
_SCALARS = {"bytes": Field.TYPE_BYTES, "int32": Field.TYPE_INT32, "int64": Field.TYPE_INT64}


def refuse_external_data(content: bytes) -> None:
    """Check that a graph contains all of its tensors.

    Raises:
        ValueError: a tensor refers to another file, or this is not an ONNX graph.
    """
    try:
        model = OnnxModel.FromString(content)
    except DecodeError:
        raise ValueError("cannot load the graph: it is not an ONNX model") from None
    _check(model)


def _check(message: Any) -> None:
    if message.DESCRIPTOR.name == "Tensor" and (message.external_data or message.data_location):
        files = ", ".join(_text(entry.value) for entry in message.external_data if entry.key == b"location")
        what = f"tensor {_text(message.name)!r} lies in another file, {files!r}"
        raise ValueError(f"{what}: export the graph with its tensors inside")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value:
                _check(child)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _model_class() -> type[Message]:
    file = FileDescriptorProto(name="lectern/external_data.proto", package="lectern.external_data")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in fields.items():
            if kind in _SCALARS:
                message.field.add(name=field, number=number, label=Field.LABEL_OPTIONAL, type=_SCALARS[kind])
            else:
                # Repeated even where ONNX has a single field, so that a field which is sent twice is checked twice.
                type_name = f".{file.package}.{kind}"
                message.field.add(name=field, number=number, label=Field.LABEL_REPEATED, type_name=type_name)
    return GetMessageClass(DescriptorPool().AddSerializedFile(file.SerializeToString()).message_types_by_name["Model"])


OnnxModel = _model_class()
