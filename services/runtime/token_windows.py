"""Runs graphs on texts, one window of tokens per row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.windows import Windows, mean_embedding, stacked
from services.runtime.graph import Array, Graph
from services.runtime.repository import Model
from services.tasks import gathered

MEAN, SENTENCE = "mean_vector", "sentence_vector"


def stages(model: Model) -> list[Graph]:
    """The graphs that read a text one after the other: the encoder that a model stands on, if any, then its own."""
    return [model.graphs[role] for role in ("encoder", "forward") if role in model.graphs]


async def read(
    texts: Sequence[Windows], graphs: Sequence[Graph], outputs: Sequence[str], deadline: float, priority: int
) -> dict[str, Array]:
    """The named outputs for every window of the texts, in order, `[N, ...]`; 0 for the padding of a window.

    The first graph takes the windows' `ids`, and `segments` if it has such an input; each other one what those before
    it gave, by name.

    If the first runs rows of different lengths together, windows of similar lengths are sent together, without padding.

    Raises:
        As `Graph.infer`.
    """
    first, *others = graphs
    inputs = {spec.name: stacked([getattr(one, spec.name) for one in texts]) for spec in first.config.inputs}

    async def values_of(arrays: dict[str, Array]) -> dict[str, Array]:
        values = await first.infer(arrays, deadline, priority)
        for graph in others:
            given = {spec.name: values[spec.name] for spec in graph.config.inputs}
            values = values | await graph.infer(given, deadline, priority)
        return values

    if first.config.padding is None:
        answers = await values_of(inputs)
        return {name: answers[name] for name in outputs}
    lengths, longest = np.concatenate([one.lengths for one in texts]), inputs["ids"].shape[1]
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths.tolist()):
        groups[-(-length // first.config.padding.multiple)].append(row)
    answers = {
        spec.name: np.zeros((len(lengths), *(longest if size < 0 else size for size in spec.shape)), spec.dtype)
        for graph in graphs
        for spec in graph.config.outputs
        if spec.name in outputs
    }

    async def infer(rows: list[int]) -> None:
        width = lengths[rows].max()
        values = await values_of({name: array[rows, :width] for name, array in inputs.items()})
        for name, whole in answers.items():
            place: tuple[Any, ...] = (rows, *(slice(size) for size in values[name].shape[1:]))
            whole[place] = values[name]

    await gathered(infer(rows) for rows in groups.values())
    return answers


async def mean_vectors(
    texts: Sequence[Windows], encoder: Graph, deadline: float, priority: int, output: str = MEAN
) -> NDArray[np.float32]:
    """The mean vector of each text `[N, width]`, of its windows' mean vectors or of another output of theirs; raises as
    `Graph.infer`."""
    vectors = (await read(texts, [encoder], [output], deadline, priority))[output]
    rows = np.split(vectors, np.cumsum([len(one.ids) for one in texts])[:-1])
    return np.concatenate([mean_embedding(part, one) for part, one in zip(rows, texts, strict=True)])
