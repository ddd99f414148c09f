"""Image classifiers as attacks and defences use them: logits of images, and gradients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lectern.card import Card, ImagePreprocessing
from lectern.v1 import defend_pb2 as pb
from services.codecs.tensors import softmax
from services.errors import InvalidArgument, NotFound
from services.rpc import Call
from services.runtime.graph import Graph, batches
from services.runtime.repository import Model, Repository

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]
Indices = NDArray[np.int64]
CAPABILITIES = ("classify", "defend")
LOGITS, GRADIENT = "logits", "gradient"


@dataclass(frozen=True)
class Classifier:
    """A model with labels that takes images; images are `[N, height, width, channels]`, values 0 to 255."""

    model: Model
    preprocessing: ImagePreprocessing
    call: Call

    @classmethod
    def find(cls, repository: Repository, name: str, version: int, call: Call, field: str = "model") -> Classifier:
        """The classifier of that name.

        Raises:
            NotFound, Unavailable: see `Repository.find`. InvalidArgument: it is no image classifier; says `field`.
        """
        try:
            model = repository.find(name, version, *CAPABILITIES)
        except (NotFound, InvalidArgument) as error:
            ((at, description),) = error.violations
            raise type(error).field(field if at == "model" else at, description) from None
        preprocessing = model.card.preprocessing
        if not (isinstance(preprocessing, ImagePreprocessing) and model.card.labels):
            raise InvalidArgument.field(field, f"{name} does not classify images")
        return cls(model, preprocessing, call)

    @property
    def card(self) -> Card:
        return self.model.card

    def check_gradients(self, field: str) -> None:
        """See that it has a graph of its gradients.

        Raises:
            InvalidArgument: it has none.
        """
        if GRADIENT not in self.model.graphs:
            raise InvalidArgument.field(
                field,
                f"{self.card.name} version {self.card.version} has no gradient graph: attack it by `square`, by the "
                "gradients of another model, or add one by `lectern make-explainable`",
            )

    def check_alike(self, other: Classifier, field: str) -> None:
        """See that the other takes the same images and has the same labels.

        Raises:
            InvalidArgument: it does not.
        """
        mine, others = (
            (c.preprocessing.height, c.preprocessing.width, c.preprocessing.channels) for c in (self, other)
        )
        if mine != others or self.card.labels != other.card.labels:
            raise InvalidArgument.field(field, f"{other.card.name} takes other images or classes than {self.card.name}")

    def index_of(self, label: str, field: str) -> int:
        """The place of a class among the labels.

        Raises:
            InvalidArgument: there is no such class.
        """
        if label not in self.card.labels:
            raise InvalidArgument.field(field, f"is {label!r}; {self.card.name} has: {', '.join(self.card.labels)}")
        return self.card.labels.index(label)

    async def logits(self, images: Images) -> Floats:
        """Of images as people send them."""
        graph = self.model.graphs["forward"]
        parts = self._batches(graph, {graph.config.inputs[0].name: images})
        return np.concatenate([part[LOGITS] async for part in parts])

    async def gradients(self, xs: Floats, classes: Indices) -> Floats:
        """Derivative by images `xs` of the log-probability of each one's class."""
        graph = self.model.graphs[GRADIENT]
        inputs = {t.name: np.zeros((len(xs), *t.shape), np.float32) for t in graph.config.inputs}
        inputs[graph.config.inputs[0].name] = np.ascontiguousarray(xs, np.float32)
        inputs["weights"][np.arange(len(xs)), classes] = 1
        inputs["log_probability"][:] = 1
        return np.concatenate([part[GRADIENT] async for part in self._batches(graph, inputs)])

    def said(self, logits: Floats) -> list[pb.PredictedClass]:
        """The most probable class of each row."""
        probabilities = softmax(logits)
        return [
            pb.PredictedClass(label=self.card.labels[i], index=i, probability=row[i])
            for i, row in zip(logits.argmax(1).tolist(), probabilities.tolist(), strict=True)
        ]

    def _batches(self, graph: Graph, arrays: dict[str, NDArray[Any]]) -> AsyncIterator[dict[str, NDArray[Any]]]:
        return batches(graph, arrays, self.call.deadline, self.call.priority)
