"""The committed weights of the models that write token by token, by their names in the modules: for other engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lectern.versions import read_card
from training.export.onnx import stored_weights

TRANSLATOR, POET = "translator_en_zh", "poem_generator"
Weights = dict[str, NDArray[np.float32]]


def vocabulary(repository: Path, model: str, tokenizer: str) -> list[str]:
    """Tokens in the order of their ids."""
    ids = tokenizer_of(repository, model, tokenizer).get_vocab()
    return sorted(ids, key=ids.__getitem__)


def tokenizer_of(repository: Path, model: str, name: str) -> Tokenizer:
    return Tokenizer.from_file(str(repository / model / served(repository, model) / f"{name}.json"))


def served(repository: Path, model: str) -> str:
    """The directory of the version that is served."""
    return str(read_card(repository / model).version)


def named_weights(repository: Path, *graphs: str) -> Weights:
    """The constants of a model's graphs by their names in its module."""
    version = served(repository, graphs[0])
    w: Weights = {}
    for graph in graphs:
        w |= weights_of((repository / graph / version / "model.onnx").read_bytes())
    return {name.removeprefix("net."): value for name, value in w.items()}


def weights_of(content: bytes) -> Weights:
    """The constants of a graph by their names in the module. Some linear matrices lie turned over there, without one;
    biases of products that were put together lie in one, those of queries scaled."""
    w = stored_weights(content)
    nodes = onnx.load_from_string(content).graph.node
    producers = {node.output[0]: node for node in nodes}
    for node in nodes:
        bias = next((name for name in node.input if node.op_type == "Add" and name.endswith(".bias")), "")
        product = next((producers[name] for name in node.input if name in producers and name != bias), None)
        if bias and product is not None and product.op_type == "MatMul":
            w[bias.replace(".bias", ".weight")] = w[product.input[1]].T
        if node.op_type == "Gemm" and node.input[1] not in w:
            joined, start = w[node.input[2]], 0
            for name, scale in factors(node.input[1], w, producers):
                end = start + len(w[name])
                w[name.replace(".weight", ".bias")] = joined[start:end] / scale
                start = end
    return w


def factors(name: str, w: Weights, producers: dict[str, onnx.NodeProto]) -> list[tuple[str, float]]:
    """The matrices that one was put together of, and what each was multiplied by."""
    if name in w:
        return [(name, 1.0)]
    node = producers[name]
    if node.op_type == "Concat":
        return [factor for part in node.input for factor in factors(part, w, producers)]
    (matrix, number) = node.input
    return [(matrix, float(w[number]))]
