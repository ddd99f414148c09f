"""Runs a graph on texts, one window of tokens per row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.windows import Windows, mean_embedding, stacked
from services.runtime.graph import Array, Graph
from services.tasks import gathered

MEAN = "mean_vector"


async def read(
    texts: Sequence[Windows], graph: Graph, outputs: Sequence[str], deadline: float, priority: int
) -> dict[str, Array]:
    """The named outputs for every window of the texts, in order, `[N, ...]`; 0 for the padding of a window.

    A graph takes the windows' `ids`, and `segments` if it has such an input.

    If the graph runs rows of different lengths together, windows of similar lengths are sent together, without padding.

    Raises:
        As `Graph.infer`.
    """
    inputs = {spec.name: stacked([getattr(one, spec.name) for one in texts]) for spec in graph.config.inputs}
    if graph.config.padding is None:
        answers = await graph.infer(inputs, deadline, priority)
        return {name: answers[name] for name in outputs}
    lengths, longest = np.concatenate([one.lengths for one in texts]), inputs["ids"].shape[1]
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths.tolist()):
        groups[-(-length // graph.config.padding.multiple)].append(row)
    answers = {
        spec.name: np.zeros((len(lengths), *(longest if size < 0 else size for size in spec.shape)), spec.dtype)
        for spec in graph.config.outputs
        if spec.name in outputs
    }

    async def infer(rows: list[int]) -> None:
        width = lengths[rows].max()
        values = await graph.infer({name: array[rows, :width] for name, array in inputs.items()}, deadline, priority)
        for name, whole in answers.items():
            place: tuple[Any, ...] = (rows, *(slice(size) for size in values[name].shape[1:]))
            whole[place] = values[name]

    await gathered(infer(rows) for rows in groups.values())
    return answers


async def mean_vectors(texts: Sequence[Windows], encoder: Graph, deadline: float, priority: int) -> NDArray[np.float32]:
    """The mean vector of each text `[N, width]`; raises as `Graph.infer`."""
    vectors = (await read(texts, encoder, [MEAN], deadline, priority))[MEAN]
    rows = np.split(vectors, np.cumsum([len(one.ids) for one in texts])[:-1])
    return np.concatenate([mean_embedding(part, one) for part, one in zip(rows, texts, strict=True)])
