"""Arrays that stay in a GPU's memory between the steps of a decoder: what a row has read need not travel each time.

ONNX Runtime copies only whole tensors for Python, so two graphs of an operator or two do the rest on the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnxruntime

from services.runtime.graph import Array, Tensor, engine_error

NEW = "new_"  # the output `new_X` of a graph goes into its input X, and stays where X lies

Index = Any  # of numpy: a number, a list, an array, a slice, or a tuple of these

FLOAT, INT64 = 1, 7  # of onnx.TensorProto.DataType
TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(np.float16): 10}


class DeviceArray:
    """An array [rows, ...] in a device's memory, with as much of numpy's syntax as a decoder needs.

    Args:
        value: holds the memory, which may be longer than the array.
        axes: so many leading axes can be indexed; what follows moves as a whole.
    """

    def __init__(
        self, memory: DeviceMemory, value: onnxruntime.OrtValue, shape: tuple[int, ...], dtype: np.dtype[Any], axes: int
    ) -> None:
        self.memory, self.value, self.shape, self.dtype, self.axes = memory, value, shape, dtype, axes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> DeviceArray | Part:
        if isinstance(index, slice) and not index.start and not index.step:  # rows from the first lie together
            stop = index.indices(len(self))[1]
            return DeviceArray(self.memory, self.value, (stop, *self.shape[1:]), self.dtype, self.axes)
        return Part(self, self.units(index))

    def __setitem__(self, index: Index, values: Array | DeviceArray | Part) -> None:
        self.memory.move(values, self, self.units(index))

    def reshape(self, rows: int, size: int) -> DeviceArray:
        """Its units [units, size]; `rows` is -1."""
        return DeviceArray(self.memory, self.value, (math.prod(self.shape) // size, size), self.dtype, 1)

    def units(self, index: Index = ()) -> Array:
        """The numbers of the units that an index selects, in its shape."""
        index = index[: self.axes] if isinstance(index, tuple) else index
        shape = self.shape[: self.axes]
        selected: Array = np.arange(math.prod(shape)).reshape(shape)[index]
        return selected

    def __array__(self, dtype: object = None, copy: object = None) -> Array:
        """A copy in the process's own memory."""
        taken: Array = self.memory.take(Part(self, self.units())).value.numpy()
        return taken.reshape(self.shape)

    @property
    def item(self) -> tuple[int, ...]:
        """The shape of a unit."""
        return self.shape[self.axes :]


class Part:
    """What an index selects of a DeviceArray; nothing is copied before it is assigned."""

    def __init__(self, source: DeviceArray, selected: Array) -> None:
        self.source, self.selected = source, selected

    def copy(self) -> DeviceArray:
        return self.source.memory.take(self)


class DeviceMemory:
    """Memory of a GPU.

    Args:
        create: creates a session there from a graph's bytes.
        device: ONNX Runtime's name of it.

    Raises:
        EngineError, OutOfMemoryError: by every method, and by what assigns to a DeviceArray.
    """

    def __init__(self, create: Callable[[bytes], onnxruntime.InferenceSession], device: str) -> None:
        self.device = device
        self._session = cache(lambda graph, dtype: create(graph(TYPES[dtype])))

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any], axes: int) -> DeviceArray:
        one, none = np.zeros((1, math.prod(shape[axes:])), dtype), np.zeros(math.prod(shape[:axes]), np.int64)
        return DeviceArray(self, self._run(take_graph, {"source": one, "of": none}), shape, dtype, axes)

    def take(self, part: Part) -> DeviceArray:
        """A copy of selected units."""
        source, shape = part.source, (*part.selected.shape, *part.source.item)
        units = {"source": source.reshape(-1, math.prod(source.item)), "of": part.selected.ravel()}
        return DeviceArray(self, self._run(take_graph, units), shape, source.dtype, source.axes)

    def move(self, values: Array | DeviceArray | Part, target: DeviceArray, selected: Array) -> None:
        """Assign to selected units of an array, which is changed where it lies.

        Raises:
            ValueError: the values have another shape.
        """
        size = math.prod(target.item)
        whole = values.source if isinstance(values, Part) else values
        if not isinstance(whole, DeviceArray):
            whole = np.asarray(whole, target.dtype)
        item = tuple(whole.shape[len(whole.shape) - len(target.item) :])
        of = values.selected if isinstance(values, Part) else np.arange(math.prod(whole.shape) // size)
        if item != target.item or of.size != selected.size:
            raise ValueError(f"{of.size} units of shape {item} are not {selected.size} of shape {target.item}")
        inputs = {"source": whole.reshape(-1, size), "of": of.ravel(), "to": selected.reshape(-1, 1)}
        self._run(move_graph, inputs, target.reshape(-1, size))

    def _run(
        self, graph: Callable[[int], bytes], inputs: Mapping[str, Tensor], target: DeviceArray | None = None
    ) -> onnxruntime.OrtValue:
        """The only output of a graph: new memory, or that of the input `target`, which the graph then changes."""
        try:
            session = self._session(graph, inputs["source"].dtype)
            binding = session.io_binding()
            for name, array in inputs.items():
                bind(binding, name, array)
            (output,) = session.get_outputs()
            if target is None:
                binding.bind_output(output.name, self.device)
            else:
                bind(binding, "target", target)
                pointer = target.value.data_ptr()
                binding.bind_output(output.name, self.device, 0, target.dtype, target.shape, pointer)
            binding.synchronize_inputs()
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return binding.get_outputs()[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise engine_error(error) from error


def bind(binding: onnxruntime.IOBinding, name: str, array: Tensor) -> None:
    """Bind an input: where it lies, or copied to where the graph reads it, which may be the CPU."""
    if isinstance(array, DeviceArray):
        device, pointer = array.memory.device, array.value.data_ptr()
        binding.bind_input(name, device, 0, array.dtype, array.shape, pointer)
    else:
        binding.bind_cpu_input(name, array)


def take_graph(kind: int) -> bytes:
    """`taken = source[of]`, as an ONNX model for elements of this type."""
    return _model(
        [_node("Gather", ["source", "of"], "taken")],
        [_value("source", kind, 2), _value("of", INT64, 1)],
        _value("taken", kind, 2),
    )


def move_graph(kind: int) -> bytes:
    """`moved = target; moved[to] = source[of]`."""
    return _model(
        [_node("Gather", ["source", "of"], "taken"), _node("ScatterND", ["target", "to", "taken"], "moved")],
        [_value("source", kind, 2), _value("of", INT64, 1), _value("target", kind, 2), _value("to", INT64, 2)],
        _value("moved", kind, 2),
    )


# A server has no package that writes ONNX. These are messages of onnx.proto (https://onnx.ai/onnx/repo-docs/IR.html) by
# their fields' numbers, in protobuf's wire format.


def _model(nodes: list[bytes], inputs: list[bytes], output: bytes) -> bytes:
    graph = b"".join([*(_field(1, node) for node in nodes), _field(2, "rows"), *(_field(11, i) for i in inputs)])
    opset = _field(2, 18)
    return _field(1, 8) + _field(7, graph + _field(12, output)) + _field(8, opset)


def _node(operator: str, inputs: list[str], output: str) -> bytes:
    return b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, operator)


def _value(name: str, kind: int, rank: int) -> bytes:
    shape = b"".join(_field(1, _field(2, f"{name}_{axis}")) for axis in range(rank))
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)
