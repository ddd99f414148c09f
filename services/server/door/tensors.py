"""Inference requests as JSON with binary tensors behind it, and their responses.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from artifacts.datatypes import DTYPES
from inference import grpc_service_pb2 as pb
from services.errors import InvalidArgument
from services.server.door.json_wire import INLINE_BYTES, dump, load

VALUES_TO_FIELDS = 10  # a number in a list takes less memory than a field of a message
KINDS: Mapping[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
}  # of NumPy: what JSON may have for a type
MOST_VALUES = 2**63
INTEGERS = (-(2**63), 2**64)
PROTOCOL = ("binary_data", "binary_data_output", "binary_data_size")  # of this form alone


class InferWire:
    """The wire of one request: what it asks for decides how its response is written.

    Args:
        name, version: of the model, from the path.
        header_length: bytes of JSON before the binary tensors; None = all.

    Attributes:
        response_header_length: the same of the response.
    """

    inline_bytes = INLINE_BYTES

    def __init__(self, name: str, version: str, header_length: int | None) -> None:
        self._name, self._version, self._header_length = name, version, header_length
        self._binary_default = False
        self._binary: dict[str, bool] = {}
        self.response_header_length: int | None = None

    def parse(self, request: bytes, message: type[Any], fields: int) -> pb.ModelInferRequest:
        """The message, all of its tensors raw.

        Raises:
            InvalidArgument: it is no such request; names the field.
        """
        length = len(request) if self._header_length is None else self._header_length
        if length > len(request):
            raise InvalidArgument(f"Inference-Header-Content-Length is {length}; the body has {len(request)} bytes")
        document = _object(load(request[:length], fields * VALUES_TO_FIELDS), "body")
        parsed: pb.ModelInferRequest = message(
            model_name=self._name, model_version=self._version, id=_text(document.get("id", ""), "id")
        )
        parameters = _object(document.get("parameters", {}), "parameters")
        self._binary_default = parameters.get("binary_data_output") is True
        _set_parameters(parsed.parameters, parameters, "parameters")
        tail = memoryview(request)[length:]
        for i, tensor in enumerate(_list(document.get("inputs", []), "inputs")):
            tail = _add_input(parsed, _object(tensor, f"inputs[{i}]"), f"inputs[{i}]", tail)
        if tail:
            raise InvalidArgument(f"{len(tail)} bytes follow that belong to no input (binary_data_size)")
        for i, output in enumerate(_list(document.get("outputs", []), "outputs")):
            self._add_output(parsed, _object(output, f"outputs[{i}]"), f"outputs[{i}]")
        return parsed

    def _add_output(self, parsed: pb.ModelInferRequest, output: Mapping[str, Any], field: str) -> None:
        name = _text(output.get("name", ""), f"{field}.name")
        parameters = _object(output.get("parameters", {}), f"{field}.parameters")
        self._binary[name] = parameters.get("binary_data", self._binary_default) is True
        _set_parameters(parsed.outputs.add(name=name).parameters, parameters, f"{field}.parameters")

    def serialize(self, response: Any) -> bytes:
        """JSON, then the tensors that were asked for in binary form.

        Raises:
            InvalidArgument: a value is none of JSON's.
        """
        document: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
        if response.id:
            document["id"] = response.id
        outputs, parts = [], []
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
            shown: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
            if self._binary.get(output.name, self._binary_default):
                shown["parameters"] = {"binary_data_size": len(content)}
                parts.append(content)
            else:
                shown["data"] = _values(content, output.datatype)
            outputs.append(shown)
        try:
            header = dump(document | {"outputs": outputs})
        except ValueError:  # NaN, or infinite
            raise InvalidArgument.field("outputs", "has values that JSON lacks: ask for binary_data") from None
        if parts:
            self.response_header_length = len(header)
        return b"".join((header, *parts))


def _add_input(parsed: pb.ModelInferRequest, tensor: Mapping[str, Any], field: str, tail: memoryview) -> memoryview:
    """Add a tensor; returns what is left of the binary ones."""
    shape = _list(tensor.get("shape", []), f"{field}.shape")
    if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        raise InvalidArgument.field(f"{field}.shape", "must be a list of integers from 0")
    name, datatype = (_text(tensor.get(key, ""), f"{field}.{key}") for key in ("name", "datatype"))
    parameters = _object(tensor.get("parameters", {}), f"{field}.parameters")
    added = parsed.inputs.add(name=name, datatype=datatype, shape=shape)
    _set_parameters(added.parameters, parameters, f"{field}.parameters")
    size = parameters.get("binary_data_size")
    if size is None:
        content = _raw(tensor.get("data", []), datatype, shape, f"{field}.data")
    elif type(size) is not int or not 0 <= size <= len(tail):
        raise InvalidArgument.field(
            f"{field}.parameters[binary_data_size]", f"is {size!r}; {len(tail)} bytes follow the JSON for it"
        )
    elif "data" in tensor:
        raise InvalidArgument.field(f"{field}.data", "must be absent where there is binary_data_size")
    else:
        content, tail = bytes(tail[:size]), tail[size:]
    parsed.raw_input_contents.append(content)
    return tail


def _raw(data: Any, datatype: str, shape: Sequence[int], field: str) -> bytes:
    """Little-endian row-major bytes of JSON values, nested or flat."""
    if datatype == "BYTES":
        return _elements(data, field)
    if datatype not in DTYPES:
        raise InvalidArgument.field(field, f"cannot be {datatype or 'of no datatype'}; there are: {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[datatype])
    # NumPy would give each of many strings the length of the longest, and take mixed integers for floats.
    if not _types(data) <= KINDS[dtype.kind]:
        raise InvalidArgument.field(field, f"has values that are not {datatype}")
    try:
        array = np.array(data, np.float64 if dtype.kind == "f" else dtype)
    except ValueError:
        raise InvalidArgument.field(field, "is not a regular list of numbers") from None
    except OverflowError:
        raise InvalidArgument.field(field, f"has a value outside the range of {datatype}") from None
    if array.size != (count := _count(shape)):
        raise InvalidArgument.field(field, f"has {array.size} values; the shape {list(shape)} takes {count}")
    with np.errstate(over="ignore"):  # too large for a float is infinite, as in any conversion
        return array.astype(dtype.newbyteorder("<")).tobytes()


def _types(data: Any) -> set[type]:
    """The types of values, nested or flat."""
    types: set[type] = set()
    waiting = [[data]]
    while waiting:
        values = waiting.pop()
        here = set(map(type, values))
        if list in here:
            waiting.extend(value for value in values if type(value) is list)
        types |= here - {list}
    return types


def _count(shape: Sequence[int]) -> int:
    """How many values a shape has; no more than any has, since a product of many lengths takes long."""
    count = 0 if 0 in shape else 1
    for length in shape if count else ():
        count = min(count * length, MOST_VALUES)
    return count


def _elements(data: Any, field: str) -> bytes:
    """Strings, nested or flat, each after its length."""
    parts, waiting = [], [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, str):
            element = value.encode(errors="surrogatepass")
            parts.append(struct.pack("<I", len(element)) + element)
        else:
            raise InvalidArgument.field(field, "has values that are not strings")
    return b"".join(parts)


def _values(content: bytes, datatype: str) -> list[Any]:
    """JSON's values of a tensor, flat."""
    if datatype != "BYTES":
        values: list[Any] = np.frombuffer(content, np.dtype(DTYPES[datatype]).newbyteorder("<")).tolist()
        return values
    elements, start = [], 0
    while start < len(content):
        (length,) = struct.unpack_from("<I", content, start)
        elements.append(content[start + 4 : start + 4 + length].decode(errors="replace"))
        start += 4 + length
    return elements


def _set_parameters(parameters: Any, given: Mapping[str, Any], field: str) -> None:
    for name, value in given.items():
        if name in PROTOCOL:
            continue
        match value:
            case bool():
                parameters[name].bool_param = value
            case int() if INTEGERS[0] <= value < 2**63:
                parameters[name].int64_param = value
            case int() if 0 < value < INTEGERS[1]:
                parameters[name].uint64_param = value
            case float():
                parameters[name].double_param = value
            case str():
                check_unicode(value, f"{field}[{name}]")
                parameters[name].string_param = value
            case _:
                raise InvalidArgument.field(f"{field}[{name}]", "must be a boolean, a number or a string")


def check_unicode(text: str, field: str) -> None:
    """Check that a string of JSON is one of protobuf.

    Raises:
        InvalidArgument: it has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument.field(field, "has half of a surrogate pair, which is no character") from None


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument.field(field, "must be a JSON object")
    return value


def _list(value: Any, field: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise InvalidArgument.field(field, "must be a list")
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise InvalidArgument.field(field, "must be a string of printable characters")
    return value
