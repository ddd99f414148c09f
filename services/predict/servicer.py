"""PredictService: numbers from rows of features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lectern.card import TabularPreprocessing
from lectern.v1 import predict_pb2 as pb
from services import pools
from services.codecs.tensors import INLINE_ROWS, matrix_of
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Repository

CAPABILITY = "predict"
DEFAULT_MODEL = "covid_regressor"


class PredictServicer:
    """Answers PredictService from the models of the capability `predict`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def Predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        model = self._repository.find(request.model or DEFAULT_MODEL, request.version, CAPABILITY)
        card, preprocessing = model.card, model.card.preprocessing
        call.model = f"{card.name}/{card.version}"
        if not isinstance(preprocessing, TabularPreprocessing):
            raise InvalidArgument.field("model", f"{card.name} does not take rows of features")
        features = await matrix_of(request.rows, preprocessing.features, self._limits)
        outputs = await model.graphs["forward"].infer({"features": features}, call.deadline, call.priority)
        results = await pools.inline_or_codecs(len(features) <= INLINE_ROWS, _predictions, outputs["prediction"])
        return pb.PredictResponse(model=card.name, version=card.version, results=results)


def _predictions(values: NDArray[np.float32]) -> list[pb.Prediction]:
    return [pb.Prediction(values=row) for row in values.tolist()]
