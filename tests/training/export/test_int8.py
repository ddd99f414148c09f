"""Graphs that compute in 8 bits do so exactly on every CPU, also where two products are added in 16 bits.

CPUs with AVX2 but without VNNI multiply uint8 by int8 and add pairs in saturating int16 (vpmaddubsw): 255 x |w1| +
255 x |w2| must fit into 32,767, so the sizes of any two weights of an output must add up to no more than 128.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from tokenizers import Tokenizer
from torch import nn

from artifacts.windows import question_windows
from tests.conftest import EXPORTED, SLIVERS
from training.export.int8 import Int8Linear
from training.methods.exported_encoder import ExportedEncoder, applied

MOST_OF_TWO = 128
# Operators of floats that ONNX Runtime computes in integers if both inputs are dequantised; and those of integers.
FUSED, INTEGER = ("Conv", "Gemm", "MatMul"), ("ConvInteger", "MatMulInteger")
GRAPHS = sorted(EXPORTED.glob("*/*/model.onnx"))


def integer_weights(path: Path) -> Iterator[tuple[str, NDArray[np.int8]]]:
    """Each int8 weight that is multiplied as an integer, with its outputs first: `[O, ...]`."""
    graph = onnx.load(path).graph
    initializers = {t.name: t for t in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type not in (*FUSED, *INTEGER):
            continue
        name = node.input[1]
        if node.op_type in FUSED:
            sources = [made.get(name) for name in node.input[:2]]
            if not all(source and source.op_type == "DequantizeLinear" for source in sources):
                continue
            name = made[name].input[0]
        if name in initializers:
            weight = numpy_helper.to_array(initializers[name])
            assert weight.dtype == np.int8
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            inputs_first = node.op_type in ("Gemm", "MatMul", "MatMulInteger") and not transposed
            yield name, np.moveaxis(weight, -1 if inputs_first else 0, 0)


def in_8_bits() -> list[Path]:
    return [path for path in GRAPHS if any(True for _ in integer_weights(path))]


def identity(path: Path) -> str:
    return f"{path.parts[-3]}-{path.parts[-2]}"


def test_the_graphs_in_8_bits_are_found() -> None:
    assert {path.parts[-3] for path in in_8_bits()} == {"compact_classifier", "spam_classifier_encoder", "text_encoder"}


@pytest.mark.parametrize("path", in_8_bits(), ids=identity)
def test_no_two_weights_of_an_output_overflow_16_bits(path: Path) -> None:
    for name, weight in integer_weights(path):
        sizes = np.sort(np.abs(weight.reshape(len(weight), -1).astype(np.int64)), axis=1)
        assert sizes[:, -2:].sum(axis=1).max() <= MOST_OF_TWO, name


def test_a_linear_layer_in_8_bits_keeps_within_16_bits() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    with torch.no_grad():
        linear.weight[0, 0], linear.weight[1] = 10, 0.5  # one large weight; all alike
    sizes = Int8Linear(linear).weight.T.abs().int().topk(2, dim=1).values.sum(1)
    assert sizes.max() <= MOST_OF_TWO
    assert sizes.min() >= MOST_OF_TWO - 2  # and no bit is given away


def session(path: Path, optimised: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def newest(name: str) -> Path:
    return max((p for p in in_8_bits() if p.parts[-3] == name), key=lambda p: int(p.parts[-2]))


@pytest.fixture(scope="module")
def test_photos() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with np.load(SLIVERS / "image_classifier_test.npz") as file:
        return file["images"], file["labels"]


def test_photos_are_classified_as_by_an_exact_reference(
    test_photos: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    images, labels = test_photos
    path = newest("compact_classifier")
    (exact,) = ReferenceEvaluator(str(path)).run(["logits"], {"images": images[:32]})
    accuracies = []
    for optimised in (True, False):
        (logits,) = session(path, optimised).run(["logits"], {"images": images})
        assert np.abs(logits[:32] - exact).max() <= 0.1 * np.abs(exact).max()
        assert (logits[:32].argmax(1) == exact.argmax(1)).mean() >= 0.96
        accuracies.append((logits.argmax(1) == labels).mean())
    assert abs(accuracies[0] - accuracies[1]) <= 0.01


def test_questions_are_answered_as_by_an_exact_reference() -> None:
    path = newest("text_encoder")
    head = ExportedEncoder.of(EXPORTED).head("question")
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    stored = json.loads((SLIVERS / "question_answerer.json").read_text())
    questions = [*stored["xquad"], *stored["bible"]][:30]
    evaluator = ReferenceEvaluator(str(path))
    sessions = {"optimised": session(path, True), "as exported": session(path, False)}
    spans: dict[str, list[tuple[int, int]]] = {}
    for question in questions:
        words, context = tokenizer.encode_batch([question["question"], question["context"]], add_special_tokens=False)
        windows = question_windows(words.ids, context.ids[:160], 256)
        inputs = {"ids": windows.ids[:1], "segments": windows.segments[:1]}
        vectors = {name: one.run(["vectors"], inputs)[0] for name, one in sessions.items()}
        if len(spans.get("numpy", ())) < 3:  # which takes some seconds each
            (vectors["numpy"],) = evaluator.run(["vectors"], inputs)
        for name, of_tokens in vectors.items():
            starts, ends = applied(head, of_tokens[0]).argmax(axis=0)
            spans.setdefault(name, []).append((int(starts), int(ends)))
    for name in ("as exported", "numpy"):
        equal = [a == b for a, b in zip(spans["optimised"], spans[name], strict=False)]
        assert np.mean(equal) >= 0.96, name
