"""Changes ONNX graphs that were made elsewhere, so that a server can take and give what they do."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BATCH = 32  # rows of a run
LARGEST = 2**31 - 1  # bytes of a message of Protocol Buffers
OLDEST_OPSET = 13  # whose operators take axes as inputs
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc")


class AddError(ValueError):
    """The model cannot be taken in as asked for; the message says why and what would help."""


def read(path: Path, done: list[str]) -> onnx.ModelProto:
    """The model of a file, with the tensors inside that lay in others.

    Raises:
        AddError: it is no ONNX model, a file of it is missing, or no server here has its operators.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, and onnx's
        raise AddError(f"{path} is not an ONNX model: {first_line(error)}") from error
    if not model.graph.node:
        raise AddError(f"{path} is not an ONNX model: it has no operators")
    outside = sorted({entry.value for t in _tensors(model) for entry in t.external_data if entry.key == "location"})
    if outside:
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except Exception as error:
            raise AddError(f"{', '.join(outside)} must lie beside {path}: {first_line(error)}") from error
        for tensor in _tensors(model):
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        done.append(f"took {', '.join(outside)} into the graph")
    if model.ByteSize() > LARGEST:
        raise AddError(f"it has {model.ByteSize() / 2**30:.1f} GiB, and a graph with its tensors inside at most 2 GiB")
    unknown = {node.domain for node in model.graph.node} - {*DOMAINS, *(f.domain for f in model.functions)}
    if unknown:
        raise AddError(
            f"it has operators of {', '.join(sorted(unknown))}, which ONNX Runtime lacks: export it without them"
        )
    return model


def remove_zip_maps(model: onnx.ModelProto, done: list[str]) -> None:
    """Give the tensor of probabilities in place of scikit-learn's maps, which no server's message has."""
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        (output,) = [value for value in graph.output if value.name == node.output[0]]
        index = list(graph.output).index(output)
        classes = next((list(a.strings or a.ints) for a in node.attribute if a.name.startswith("classlabels")), [])
        name = output.name
        graph.node.remove(node)
        graph.node.append(helper.make_node("Identity", [node.input[0]], [name]))
        graph.output.remove(output)
        graph.output.insert(index, helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, len(classes) or None]))
        labels = [label.decode() if isinstance(label, bytes) else str(label) for label in classes]
        helper.set_model_props(model, {p.key: p.value for p in model.metadata_props} | {"labels": json.dumps(labels)})
        done.append("took scikit-learn's ZipMap out: probabilities are a tensor")


def remove_strings(model: onnx.ModelProto, done: list[str]) -> None:
    """Leave out outputs of texts: a class has its label by its place.

    Raises:
        AddError: nothing else is left, or an output is no tensor.
    """
    for value in list(model.graph.output):
        if not value.type.HasField("tensor_type"):
            raise AddError(f"the output {value.name!r} is no tensor: export it as one (scikit-learn: zipmap=False)")
        if value.type.tensor_type.elem_type == TensorProto.STRING:
            model.graph.output.remove(value)
            done.append(f"left out the output {value.name!r}, which is of texts")
    if not model.graph.output:
        raise AddError("all of its outputs are texts")
    for value in inputs_of(model):
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type == TensorProto.STRING:
            raise AddError(f"the input {value.name!r} is no tensor of numbers")


def largest_batch(model: onnx.ModelProto, done: list[str]) -> int:
    """Rows that a run of the model may have; 0 = its first axes are no batch. A batch that is fixed to 1 is set free if
    rows then give what they give alone."""
    first = [shape_of(value)[:1] for value in (*inputs_of(model), *model.graph.output)]
    if all(axis == [-1] for axis in first):
        return BATCH
    if any(axis not in ([-1], [1]) for axis in first):
        return 0
    freed = _freed(model)
    if not _rows_stay_apart(model, freed):
        done.append(
            "runs row by row, since its batch is fixed to 1: faster if exported with a dynamic one, e.g. "
            "torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim('batch')},))"
        )
        return 1
    model.CopyFrom(freed)
    done.append("set its batch of 1 free: two rows together give what each gives alone")
    return BATCH


def _freed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a batch of any size, as far as its shapes alone decide it."""
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    del freed.graph.value_info[:]
    for value in (*inputs_of(freed), *freed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    reshapes = [node for node in freed.graph.node if node.op_type == "Reshape"]
    for node in reshapes:
        kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    shapes = {node.input[1] for node in reshapes}
    for tensor in freed.graph.initializer:
        sizes = numpy_helper.to_array(tensor) if tensor.name in shapes else np.zeros(0)
        if sizes.size > 1 and sizes.flat[0] == 1:
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([[0], sizes[1:]]), tensor.name))  # 0 = as before
    return freed


def _rows_stay_apart(model: onnx.ModelProto, freed: onnx.ModelProto) -> bool:
    random = np.random.default_rng(0)
    try:
        one, any_number = (session_of(m.SerializeToString()) for m in (model, freed))
        rows = {
            value.name: random.random((2, *(max(1, n) for n in shape_of(value)[1:]))).astype(_dtype(value))
            for value in inputs_of(model)
        }
        together = any_number.run(None, rows)
        alone = [one.run(None, {name: row[i : i + 1] for name, row in rows.items()}) for i in range(2)]
    except Exception:  # ONNX Runtime's exceptions share no base class
        return False
    return all(
        both.shape == (2, *first.shape[1:]) and np.allclose(both, np.concatenate([first, second]), 1e-3, 1e-4)
        for both, first, second in zip(together, *alone, strict=True)
    )


class Surgery:
    """Puts operators in front of a graph and behind it.

    Attributes:
        values: its own outputs by name.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opset = max([e.version for e in model.opset_import if e.domain in ("", "ai.onnx")], default=0)
        if self._opset < OLDEST_OPSET:
            raise AddError(
                f"its operators are of opset {self._opset}: convert them to {OLDEST_OPSET} (onnx.version_converter)"
            )
        prefixed = onnx.compose.add_prefix(model, "model/")
        self._names = {value.name: f"model/{value.name}" for value in (*model.graph.input, *model.graph.output)}
        self.values = {f"model/{value.name}": value for value in copies(model.graph.output)}
        self._origin = list(prefixed.graph.node)
        model.CopyFrom(prefixed)
        self._model, self._graph = model, model.graph
        self._front: list[onnx.NodeProto] = []
        self._count = 0

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """An operator's output."""
        self._count += 1
        output = f"own/{kind}_{self._count}"
        self._front.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        self._count += 1
        array = np.asarray(value)
        array = array.astype(np.int64) if array.dtype.kind in "iu" else array.astype(np.float32)
        self._graph.initializer.append(numpy_helper.from_array(array, name := f"own/constant_{self._count}"))
        return name

    def replace_input(self, source: onnx.ValueInfoProto, name: str, kind: int, axes: Sequence[int | str]) -> str:
        """Take `name` in place of an input."""
        self.drop_input(source)
        self._graph.input.insert(0, helper.make_tensor_value_info(name, kind, ["batch", *axes]))
        return name

    def drop_input(self, source: onnx.ValueInfoProto) -> None:
        (old,) = [value for value in self._graph.input if value.name == self._names[source.name]]
        self._graph.input.remove(old)

    def feed(self, source: onnx.ValueInfoProto, value: str) -> None:
        """Let `value` be what the graph read as an input."""
        self._front.append(helper.make_node("Identity", [value], [self._names[source.name]]))

    def best_output(self, ranks: Sequence[int], wanted: Sequence[str] = ()) -> str:
        """The output of that name, else the last of floats, else the last, with one of these ranks."""
        fitting = {name: value for name, value in self.values.items() if len(shape_of(value)) in ranks}
        if not fitting:
            raise AddError(
                f"it has no output with {' or '.join(map(str, ranks))} axes, but {shown(self.values.values())}"
            )
        for name in wanted:
            if f"model/{name}" in fitting:
                return f"model/{name}"
        floats = [
            n
            for n, v in fitting.items()
            if element_type(v) in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        ]
        return (floats or list(fitting))[-1]

    def replace_outputs(self, name: str, value: str, single: bool = False) -> int:
        """Give `value`, [N, width], as the only output; returns its width."""
        self._finish()
        self._graph.node.append(helper.make_node("Identity", [value], [name]))
        del self._graph.output[:]
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]))
        width = 1 if single else _measured(self._model, name)
        self._graph.output[0].type.tensor_type.shape.dim[1].dim_value = width
        return width

    def classes(self, given: tuple[str, ...], done: list[str]) -> tuple[str, ...]:
        """Give logits as the only output; returns the classes' labels, by default those in the graph, or numbers."""
        output = self.best_output(ranks=(2, 4))
        value = self.node("Flatten", output) if len(shape_of(self.values[output])) == 4 else output
        value = self.node("Cast", value, to=TensorProto.FLOAT)
        if self._gives_probabilities(output):
            value = self.node("Log", self.node("Max", value, self.constant(np.float32(1e-30))))
            done.append("takes the logarithm of its probabilities: a server gives probabilities of logits")
        width = self.replace_outputs("logits", value)
        labels = given or kept_labels(self._model)
        if not labels:
            labels = tuple(str(i) for i in range(width))
            done.append(f"calls its classes 0 to {width - 1} (--labels names them)")
        if len(labels) != width:
            raise AddError(f"it has {width} classes, and there are {len(labels)} labels (--labels)")
        return labels

    def _gives_probabilities(self, output: str) -> bool:
        makers = {name: node for node in self._origin for name in node.output}
        while (node := makers.get(output)) is not None and node.op_type in (
            "Identity",
            "Cast",
            "Reshape",
            "Flatten",
            "Squeeze",
        ):
            output = node.input[0]
        return node is not None and node.op_type == "Softmax"

    def _finish(self) -> None:
        """Put the new operators where those are before them that make what they read."""
        nodes: list[onnx.NodeProto] = []
        known = {value.name for value in self._graph.input} | {tensor.name for tensor in self._graph.initializer}
        front, origin = list(self._front), list(self._graph.node)
        while front and all(name in known for name in front[0].input):
            nodes.append(node := front.pop(0))
            known.update(node.output)
        del self._graph.node[:]
        self._graph.node.extend([*nodes, *origin, *front])


def _measured(model: onnx.ModelProto, name: str) -> int:
    """How many values an item of an output has."""
    session = session_of(model.SerializeToString())
    inputs = {
        v.name: np.zeros([1, *(n if n > 0 else 4 for n in shape_of(v)[1:])], _dtype(v)) for v in model.graph.input
    }
    try:
        (values,) = session.run([name], inputs)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise AddError(f"it does not run on zeros: {first_line(error)}") from error
    return int(values.shape[1])


def kept_labels(model: onnx.ModelProto) -> tuple[str, ...]:
    """Those that `remove_zip_maps` has kept."""
    kept = [prop.value for prop in model.metadata_props if prop.key == "labels"]
    return tuple(json.loads(kept[0])) if kept else ()


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What callers give: older graphs list their constants, too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def copies(values: Iterable[onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    """Of values of a graph that is about to change."""
    return [copy.deepcopy(value) for value in values]


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return list(onnx.external_data_helper._get_all_tensors(model))


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value if d.dim_value > 0 else -1 for d in value.type.tensor_type.shape.dim]


def element_type(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type(value)))


def shown(values: Any) -> str:
    return ", ".join(f"{value.name} {shape_of(value)}" for value in values)


def session_of(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise AddError(f"ONNX Runtime cannot load it: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
