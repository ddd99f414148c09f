"""Mean vectors of texts, by the graph of an encoder that reads a window of tokens at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lectern.windows import Windows, mean_embedding, stacked
from services.runtime.graph import Graph


async def mean_vectors(texts: Sequence[Windows], encoder: Graph, deadline: float, priority: int) -> NDArray[np.float32]:
    """The mean vector of each text `[N, width]`; raises as `Graph.infer`."""
    ids = stacked([one.ids for one in texts])
    inputs = {"ids": ids, "segments": np.zeros_like(ids)}
    vectors = (await encoder.infer(inputs, deadline, priority))["mean_vector"]
    rows = np.split(vectors, np.cumsum([len(one.ids) for one in texts])[:-1])
    return np.concatenate([mean_embedding(part, one) for part, one in zip(rows, texts, strict=True)])
