"""Rows of a table as what is explained: their features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.card import TabularPreprocessing
from services.codecs.tensors import rows_to_matrix
from services.explain.methods.asking import Floats
from services.explain.network import Network, by_forward_graph, explanation_of
from services.explain.subject import Request, Subject, check_kind, read_target
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model


@dataclass(frozen=True)
class RowKind:
    """A row of a table: x is `[features]`.

    Args:
        features: their names.
        reference: what stands for nothing.
        scale: standard deviation of each feature.
    """

    x: Floats
    features: tuple[str, ...]
    reference: Floats
    scale: Floats

    @property
    def pixels(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def noise_scale(self) -> Floats:
        return 4 * self.scale

    def baseline(self, given: int, default: int) -> Floats:
        if given:
            raise ValueError("is for images and audio; rows are compared with the card's reference")
        return self.reference

    def groups(self, cells: int) -> NDArray[np.int64]:
        return np.arange(len(self.x))

    def windows(self, size: int, stride: int) -> list[tuple[slice, ...]]:
        return [(slice(i, i + 1),) for i in range(len(self.x))]

    def spread(self, values: Floats) -> Floats:
        return values


async def read_row(
    request: Request, model: Model, preprocessing: TabularPreprocessing, call: Call, limits: Limits
) -> Subject:
    """The row and target of a request, with the model's answer.

    Raises:
        InvalidArgument: the model cannot be explained, or takes no row; or the row or the target is bad.
    """
    explanation = explanation_of(model.card)
    check_kind(request, "row", model.card)
    x = rows_to_matrix([request.input.row], preprocessing.features, limits, "input.row")[0]
    reference, scale = (np.array(values, np.float32) for values in (explanation.reference, explanation.scale))
    kind = RowKind(x, preprocessing.features, reference, scale)
    answer = by_forward_graph(model, lambda xs: xs.astype(np.float32), explanation, call)
    network = Network(model, call, answer, explanation)
    (outputs,) = await network.outputs(x[None])
    labels = model.card.labels or preprocessing.targets
    return Subject(network, kind, labels, outputs, read_target(request, labels, outputs, model.card))
