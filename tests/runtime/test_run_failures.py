"""Whose fault a failed run is: lengths that do not belong together are the caller's, what a graph trips over ours."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import ModelProto, parser
from tritonclient.utils import InferenceServerException

from tests.conftest import Server, serving
from tests.graphs import add_graph

INVALID, INTERNAL = (str(code) for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL))
BATCHES = {"batched": 8, "unbatched": 0}


def adder(first: str, second: str) -> ModelProto:
    """`z = x + y` for these axes; the run fails, whatever their lengths, where the largest x + y is not 0."""
    text = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    adder (float[{first}] x, float[{second}] y) => (float[{first}] z) {{
        sum = Add (x, y)
        flat = Constant <value = int64[1] {{-1}}> ()
        row = Reshape (sum, flat)
        most = ReduceMax (row)
        two = Constant <value = float[1] {{2.0}}> ()
        rows = Add (most, two)
        columns = Constant <value = float[1] {{3.0}}> ()
        sizes = Concat <axis = 0> (rows, columns)
        shape = Cast <to = 7> (sizes)
        six = Constant <value = float[6] {{0.0, 0.0, 0.0, 0.0, 0.0, 0.0}}> ()
        table = Reshape (six, shape)
        zero = ReduceMax <keepdims = 0> (table)
        z = Add (sum, zero)
    }}
    """
    return parser.parse_model(text)


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Graphs of one function, whose axes have one name or two, with a batch and without."""
    directory = tmp_path_factory.mktemp("adding")
    for kind, rows in BATCHES.items():
        batch = "N, " if rows else ""
        for name, second in (("named", "A"), ("unnamed", "B")):
            config = f"""
            backend: "onnxruntime" max_batch_size: {rows}
            input [{{ name: "x" data_type: TYPE_FP32 dims: [-1] }}, {{ name: "y" data_type: TYPE_FP32 dims: [-1] }}]
            output [{{ name: "z" data_type: TYPE_FP32 dims: [-1] }}]
            instance_group {{ count: 2 }}
            """
            model = adder(f"{batch}A", f"{batch}{second}")
            add_graph(directory / "repository", f"{name}_{kind}", model, config)
    with serving(directory, "predict", repository=directory / "repository") as server:
        yield server


def call(server: Server, graph: str, x: list[float], y: list[float]) -> list[float]:
    lead = (1,) if graph.endswith("_batched") else ()
    inputs = []
    for name, values in (("x", x), ("y", y)):
        inputs.append(triton.InferInput(name, (*lead, len(values)), "FP32"))
        inputs[-1].set_data_from_numpy(np.array(values, np.float32).reshape(*lead, -1))
    with triton.InferenceServerClient(server.target) as client:
        result: list[float] = client.infer(graph, inputs).as_numpy("z").ravel().tolist()
    return result


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", ["named", "unnamed"])
def test_lengths_that_do_not_belong_together_are_the_callers_fault(adding: Server, name: str, kind: str) -> None:
    graph = f"{name}_{kind}"
    with pytest.raises(InferenceServerException, match="do not fit together") as caught:
        call(adding, graph, [0, 0], [0, 0, 0])
    assert str(caught.value.status()) == INVALID
    assert call(adding, graph, [-1, -2], [1, -4]) == [0, -6]


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", ["named", "unnamed"])
def test_a_graph_that_fails_is_no_callers_fault(adding: Server, name: str, kind: str) -> None:
    graph = f"{name}_{kind}"
    with pytest.raises(InferenceServerException, match="failed on this input") as caught:
        call(adding, graph, [1, 0], [1, 0])
    assert str(caught.value.status()) == INTERNAL
    assert call(adding, graph, [-1, -2], [1, -4]) == [0, -6]
