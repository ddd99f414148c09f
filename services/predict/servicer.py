"""PredictService: numbers from rows of features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from artifacts.card import TabularPreprocessing
from lectern.v1 import predict_pb2 as pb
from services import pools
from services.answering import answering
from services.codecs.tensors import INLINE_ROWS, matrix_of
from services.limits import Limits
from services.predict import CAPABILITY
from services.rpc import Call
from services.runtime.repository import Repository


class PredictServicer:
    """Answers PredictService from the models of the capability `predict`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def Predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        model, table = answering(self._repository, call, request, CAPABILITY, TabularPreprocessing)
        features = await matrix_of(request.rows, table.features, self._limits)
        outputs = await model.graphs["forward"].infer({"features": features}, call.deadline, call.priority)
        results = await pools.inline_or_codecs(len(features) <= INLINE_ROWS, _predictions, outputs["prediction"])
        return pb.PredictResponse(model=model.card.name, version=model.card.version, results=results)


def _predictions(values: NDArray[np.float32]) -> list[pb.Prediction]:
    return [pb.Prediction(values=row) for row in values.tolist()]
