"""Torch modules to ONNX files whose outputs were compared with torch's."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

from artifacts.card import Parity
from artifacts.versions import read_card
from training.export.int8 import TRANSLATIONS
from training.export.parity import ExportError, check_parity
from training.trained import Graph

OPSET = 20
BYTE_LIMIT = 127
LARGEST_FOLDED = 4096  # values of a constant that is stored; larger ones are computed when a graph is loaded


Module = TypeVar("Module", bound=torch.nn.Module)


def export_graph(graph: Graph, path: Path) -> Parity:
    """Write `graph` to `path` and return how far ONNX Runtime's outputs are from torch's.

    Raises:
        ExportError: an example's size is burned in. ParityError: an output differs by more than the graph's tolerance.
    """
    if graph.onnx is None:
        onnx.save(_export(graph), path)
    else:
        path.write_bytes(graph.onnx)
    return check_parity(graph, path)


def store_exact_halves(model: onnx.ModelProto) -> None:
    """Store each float32 initializer that float16 holds exactly as float16 with a Cast: half the file, the same values.

    ONNX Runtime folds the Cast when it loads the graph.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.size < 64 or not np.array_equal(halves.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def store_exact_bytes(model: onnx.ModelProto) -> None:
    """Store each float32 matrix or kernel that is int8 times a float16 scale for each row (of a matrix: or column) as
    these: a quarter of it.

    ONNX Runtime folds the product when it loads the graph. What is left to `store_exact_halves` includes the scales.
    """
    products = []
    for tensor in list(model.graph.initializer):
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < 1024:
            continue
        rows = tuple(range(1, values.ndim))
        for axes in (rows, (0,)) if values.ndim == 2 else (rows,):
            scales = np.abs(values).max(axis=axes, keepdims=True) / BYTE_LIMIT
            scales = np.where(scales == 0, np.float32(1), scales)
            integers = np.rint(values / scales)
            if np.array_equal(integers * scales, values):
                break
        else:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(integers.astype(np.int8), f"{name}_bytes"))
        model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))
        cast = helper.make_node("Cast", [f"{name}_bytes"], [f"{name}_integers"], to=TensorProto.FLOAT)
        products += [cast, helper.make_node("Mul", [f"{name}_integers", f"{name}_scales"], [name])]
    nodes = [*products, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def served_graph(model: Path) -> bytes:
    """The forward graph of the version of an exported model that is served."""
    return (model / str(read_card(model).version) / "model.onnx").read_bytes()


def stored_weights(content: bytes) -> dict[str, NDArray[np.float32]]:
    """The constants of an ONNX file, by the names that they had in its module; the exporter calls the bias of a
    convolution that a batch norm was folded into `NAME.weight_bias`."""
    tensors = onnx.load_from_string(content).graph.initializer
    stored = {
        t.name.removesuffix("_half").replace(".weight_bias", ".bias"): numpy_helper.to_array(t).astype(np.float32)
        for t in tensors
    }
    for name in [name.removesuffix("_bytes") for name in stored if name.endswith("_bytes")]:
        stored[name] = stored.pop(f"{name}_bytes") * stored.pop(f"{name}_scales")
    return stored


@torch.no_grad()
def load_weights(
    module: torch.nn.Module, content: bytes, others: Mapping[str, NDArray[np.float32]] | None = None
) -> torch.nn.Module:
    """Fill the parameters and buffers of `module` from an ONNX file that was exported from its like, and from `others`,
    which it holds under other names."""
    stored = stored_weights(content) | dict(others or {})
    for name, value in module.state_dict().items():
        value.copy_(torch.from_numpy(stored[name]).reshape(value.shape))
    return module


@torch.no_grad()
def round_to_half(module: Module) -> Module:
    """Round every parameter to float16's precision in place, so that what is measured is what is stored."""
    for parameter in module.parameters():
        parameter.copy_(parameter.half().float())
    return module


@torch.no_grad()
def round_to_bytes(module: Module) -> Module:
    """Round every matrix and kernel to int8 times a float16 scale for each row, and other parameters to float16, in
    place."""
    for parameter in module.parameters():
        if parameter.dim() < 2:
            parameter.copy_(parameter.half().float())
            continue
        rows = tuple(range(1, parameter.dim()))
        scales = (parameter.abs().amax(dim=rows, keepdim=True) / BYTE_LIMIT).half()
        scales = torch.where(scales == 0, torch.ones_like(scales), scales).float()
        parameter.copy_((parameter / scales).round().clamp(-BYTE_LIMIT, BYTE_LIMIT) * scales)
    return module


def _export(graph: Graph) -> onnx.ModelProto:
    for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=_dynamic_shapes(graph),
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        optimizer.optimize_ir(program.model, output_size_limit=LARGEST_FOLDED)
    model = program.model_proto
    if graph.padding and graph.dynamic_axes:
        _name_padded_axes(model, graph)
    _strip(model)
    _check_varying_axes(model, graph)
    store_exact_bytes(model)
    store_exact_halves(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _dynamic_shapes(graph: Graph) -> tuple[Any, ...]:
    """The axes that vary, for each parameter of the module: one that takes all further inputs has a tuple of them."""
    shapes = [dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in _varying_axes(graph).values()]
    parameters = inspect.signature(graph.module.forward).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        named = len(parameters) - 1
        return (*shapes[:named], tuple(shapes[named:]))
    return tuple(shapes)


def _varying_axes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """By input, the axes whose length may vary, the batch's included."""
    batch = (0,) if graph.max_batch_size else ()
    return {name: (*batch, *graph.dynamic_axes.get(name, ())) for name in graph.inputs}


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold source paths and double the size of small graphs."""
    del model.metadata_props[:]
    model.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:], function.value_info[:]
        _strip_nodes(function.node)
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    del graph.metadata_props[:], graph.value_info[:]
    graph.doc_string = ""
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.HasField("g"):  # the body of a loop
                _strip_graph(attribute.g)


@torch.no_grad()
def _name_padded_axes(model: onnx.ModelProto, graph: Graph) -> None:
    """Have the outputs that grow with a row say so: of an LSTM's, the exporter says the example's length."""
    axis = graph.padding["padded_axis"]
    padded = [name for name, axes in graph.dynamic_axes.items() if axis in axes]
    shorter = {name: graph.inputs[name].narrow(axis, 0, graph.inputs[name].shape[axis] - 1) for name in padded}
    symbols = {v.name: v.type.tensor_type.shape.dim[axis].dim_param for v in model.graph.input if v.name in padded}
    made, less = (_outputs(graph.module(*inputs.values())) for inputs in (graph.inputs, graph.inputs | shorter))
    for value, whole, part in zip(model.graph.output, made, less, strict=True):
        for dimension, size, other in zip(value.type.tensor_type.shape.dim, whole.shape, part.shape, strict=True):
            if size != other and dimension.HasField("dim_value"):
                dimension.dim_param = symbols[padded[0]]


def _outputs(made: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


def _check_varying_axes(model: onnx.ModelProto, graph: Graph) -> None:
    """See that no example's size is burned in, and call the batch axes `batch`."""
    axes = _varying_axes(graph)
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        for axis in axes.get(value.name, (0,)):
            if dimensions[axis].HasField("dim_value"):
                raise ExportError(f"{value.name}: the example's {dimensions[axis].dim_value} is burned in, axis {axis}")
        if graph.max_batch_size:
            dimensions[0].dim_param = "batch"
