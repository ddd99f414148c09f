"""Reads the weights of a network out of its graph, where some were put together or turned over by the export."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from training.export.onnx import stored_weights

Weights = dict[str, NDArray[np.float32]]


def weights_of(content: bytes) -> Weights:
    """The constants of a graph by their names in the module. Some linear matrices lie turned over there, without one;
    biases of products that were put together lie in one, those of queries scaled."""
    w = stored_weights(content)
    nodes = onnx.load_from_string(content).graph.node
    producers = {node.output[0]: node for node in nodes}
    for node in nodes:
        bias = next((name for name in node.input if node.op_type == "Add" and name in w), "")
        product = next((producers[name] for name in node.input if name in producers and name != bias), None)
        if bias.endswith(".bias") and product is not None and product.op_type == "MatMul":
            w[bias.replace(".bias", ".weight")] = w[product.input[1]].T
        matrix = joined = ""
        if node.op_type == "Gemm" and len(node.input) == 3:
            matrix, joined = node.input[1:]
        if bias and product is not None and product.op_type == "MatMul":
            turned = producers.get(product.input[1])
            if turned is not None and turned.op_type == "Transpose":
                matrix, joined = turned.input[0], bias
        if matrix and matrix not in w and joined in w:
            start = 0
            for name, scale in factors(matrix, w, producers):
                end = start + len(w[name])
                w[name.replace(".weight", ".bias")] = w[joined][start:end] / scale
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
