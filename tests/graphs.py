"""Small graphs for tests of the runtime, and repositories of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from artifacts.card import (
    Baseline,
    Card,
    DataSource,
    Metric,
    Parity,
    StoryPreprocessing,
    TabularPreprocessing,
    Training,
)

# `features` float [N, 1], whole numbers -> the same, after as many 512 x 512 matrix products as the largest says,
# some milliseconds each. Values outside -100,000..99,999 fail the run: the table has no such row.
BURN = """
<ir_version: 10, opset_import: ["" : 20]>
burn (float[N, 1] features) => (float[N, 1] prediction) {
    rounds = Cast <to = 7> (features)
    most = ReduceMax <keepdims = 0> (rounds)
    true = Constant <value = bool {1}> ()
    burnt = Loop (most, true, matrix) <body = body (
        int64 i, bool go, float[512, 512] m
    ) => (bool go_on, float[512, 512] out) {
        go_on = Identity (go)
        product = MatMul (m, matrix)
        out = Tanh (product)
    }>
    zero = Constant <value = float {0.0}> ()
    sum = ReduceSum <keepdims = 0> (burnt)
    nothing = Mul (sum, zero)
    gathered = Gather (table, rounds)
    prediction = Add (gathered, nothing)
}
"""


def burn() -> onnx.ModelProto:
    """The graph above with its constants."""
    model = parser.parse_model(BURN)
    matrix = np.random.default_rng(0).normal(0, 0.01, (512, 512)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(matrix, "matrix"))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(100_000, dtype=np.float32), "table"))
    return model


TABLE = TabularPreprocessing(features=("x",), targets=("y",))
ANY = StoryPreprocessing(tokenizer="none.json", max_sentences=1, max_words=1)  # says nothing of a graph's inputs


def add_graph(repository: Path, name: str, model: onnx.ModelProto, config: str) -> None:
    """Write `name` version 1 of the capability predict with its card, and `config` as its config.pbtxt."""
    directory = repository / name / "1"
    directory.mkdir(parents=True)
    content = model.SerializeToString()
    (directory / "model.onnx").write_bytes(content)
    (repository / name / "config.pbtxt").write_text(config)
    card = Card(
        name=name,
        version=1,
        title=name,
        lecture="HW1",
        capability="predict",
        task="test",
        description="A graph of the tests.",
        graphs={"forward": name},
        preprocessing=TABLE if _is_table(model) else ANY,
        metrics=(Metric(name="none", value=0, split="test", n=1),),
        baselines=(Baseline(name="none", metric="none", value=0),),
        data=(DataSource(source="none", version="0", sha256="0" * 64, licence="none", train=0, validation=0, test=0),),
        training=Training(command="none", seed=0, device="cpu", seconds=0, parameters=0, commit="none"),
        parity=Parity(max_abs_diff=0, batches=(1,)),
        files={f"{name}/1/model.onnx": hashlib.sha256(content).hexdigest()},
    )
    (directory / "card.json").write_text(card.model_dump_json())


def _is_table(model: onnx.ModelProto) -> bool:
    """Whether a graph makes one `prediction` of one of the `features`."""
    tensors = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:]
        for v in (*model.graph.input, *model.graph.output)
    }
    return tensors == {"features": [1], "prediction": [1]}


def burn_config(max_batch_size: int, extra: str = "") -> str:
    """config.pbtxt for BURN."""
    return f"""
    backend: "onnxruntime"
    max_batch_size: {max_batch_size}
    input [{{ name: "features" data_type: TYPE_FP32 dims: [1] }}]
    output [{{ name: "prediction" data_type: TYPE_FP32 dims: [1] }}]
    {extra}
    """
