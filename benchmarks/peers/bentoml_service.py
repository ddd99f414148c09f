"""Graphs as APIs of BentoML, over `$REPOSITORY`: `bentoml serve bentoml_service:Graphs` takes JSON at /MODEL.

Its batches join lists, tables and arrays alone; of these a client sends arrays, as JSON.
"""

import os
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType
from onnx_graph import MAX_BATCH, Graph

batched = bentoml.api(batchable=True, max_batch_size=MAX_BATCH)


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Graphs:
    """The models of the repository."""

    def __init__(self) -> None:
        self.graphs = {model: Graph(os.environ["REPOSITORY"], model) for model in ("image_classifier", "mlp")}

    @batched
    def image_classifier(self, images: Annotated[np.ndarray, DType("uint8")], /) -> np.ndarray:
        return self.graphs["image_classifier"].run(images)

    @batched
    def mlp(self, features: Annotated[np.ndarray, DType("float32")], /) -> np.ndarray:
        return self.graphs["mlp"].run(features)
