"""Image classifiers as attacks and defences ask them, for logits and gradients; graphs are known here alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from artifacts.card import Card, ImagePreprocessing
from lectern.v1 import defend_pb2 as pb
from services.answering import find
from services.codecs.tensors import softmax
from services.defend import CAPABILITY
from services.defend.methods.pixels import Floats, Images
from services.errors import InvalidArgument
from services.rpc import Call
from services.runtime.gradient_graph import GRADIENT, GradientGraph
from services.runtime.graph import batches
from services.runtime.repository import Model, Repository

Indices = NDArray[np.int64]
LOGITS = "logits"


@dataclass(frozen=True)
class Classifier:
    """A model with labels that takes images; images are `[N, height, width, channels]`, values 0 to 255."""

    model: Model
    preprocessing: ImagePreprocessing
    call: Call

    @classmethod
    def find(cls, repository: Repository, name: str, call: Call, field: str) -> Classifier:
        """The classifier that `field` of a request names, beside the one that answers.

        Raises:
            NotFound, Unavailable: see `Repository.find`. InvalidArgument: it is no image classifier.
        """
        return cls.of(*find(repository, name, 0, ImagePreprocessing, *CAPABILITY.models_of, field=field), call, field)

    @classmethod
    def of(cls, model: Model, preprocessing: ImagePreprocessing, call: Call, field: str = "model") -> Classifier:
        """The model as a classifier; `field` of the request names it.

        Raises:
            InvalidArgument: it has no classes.
        """
        if not model.card.labels:
            raise InvalidArgument.field(field, f"{model.card.name} does not classify images")
        return cls(model, preprocessing, call)

    @property
    def card(self) -> Card:
        return self.model.card

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        return self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels

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
        if self.shape != other.shape or self.card.labels != other.card.labels:
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
        parts = batches(graph, {graph.config.inputs[0].name: images}, self.call.deadline, self.call.priority)
        return np.concatenate([part[LOGITS] async for part in parts])

    async def logits_of_each(self, several: Sequence[Images]) -> list[Floats]:
        """Of several arrays of as many images, which share batches."""
        return np.split(await self.logits(np.concatenate(several)), len(several))

    async def gradients(self, xs: Floats, classes: Indices) -> Floats:
        """Derivative by images `xs` of the log-probability of each one's class."""
        graph = GradientGraph(self.model.graphs[GRADIENT], self.call.deadline, self.call.priority)
        parts = graph.run(xs, graph.one_hot(classes, len(xs)), log_probability=True)
        return np.concatenate([part[GRADIENT] async for part in parts])

    def predictions(self, logits: Floats) -> list[pb.PredictedClass]:
        """The most probable class of each row."""
        probabilities = softmax(logits)
        return [
            pb.PredictedClass(label=self.card.labels[i], index=i, probability=row[i])
            for i, row in zip(logits.argmax(1).tolist(), probabilities.tolist(), strict=True)
        ]
