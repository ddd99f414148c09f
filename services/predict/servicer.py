"""PredictService: numbers or classes from rows of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from artifacts.card import ExamplesPreprocessing, TabularPreprocessing
from lectern.v1 import predict_pb2 as pb
from lectern.v1.classify_pb2 import Classification
from services import pools
from services.answering import answering
from services.codecs.tensors import INLINE_ROWS, matrix_of, softmax
from services.limits import Limits
from services.predict import CAPABILITY
from services.predict.examples import LearnedFrom, learned_from, notices_of, queries_of
from services.predict.seen import refuse, seen
from services.probabilities import best_first
from services.rpc import Call
from services.runtime.repository import Repository

QUERIES_AT_ONCE = 256  # in one run, so that callers take turns
RPCS: Mapping[type[BaseModel], str] = {
    TabularPreprocessing: "Predict",
    ExamplesPreprocessing: "PredictFromExamples",
}


class PredictServicer:
    """Answers PredictService from the models of the capability `predict`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def Predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        model, table = answering(self._repository, call, request, CAPABILITY, TabularPreprocessing, rpcs=RPCS)
        features = await matrix_of(request.rows, table.features, self._limits)
        known, inline = seen(table), len(features) <= INLINE_ROWS
        doubts = await pools.inline_or_codecs(inline, known.doubts, features)
        if request.strict:
            refuse(doubts)
        outputs = await model.graphs["forward"].infer({"features": features}, call.deadline, call.priority)
        results = await pools.inline_or_codecs(inline, known.predictions, outputs["prediction"], doubts)
        return pb.PredictResponse(model=model.card.name, version=model.card.version, results=results)

    async def PredictFromExamples(
        self, request: pb.PredictFromExamplesRequest, call: Call
    ) -> pb.PredictFromExamplesResponse:
        model, kind = answering(self._repository, call, request, CAPABILITY, ExamplesPreprocessing, rpcs=RPCS)
        card, inline = model.card, len(request.examples) + len(request.queries) <= INLINE_ROWS
        table = await pools.inline_or_codecs(inline, learned_from, request, kind, self._limits)
        queries = await pools.inline_or_codecs(inline, queries_of, request, table, self._limits)
        parts = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            inputs: dict[str, NDArray[Any]] = {
                "examples": table.rows,
                "labels": table.labels,
                "queries": queries[start : start + QUERIES_AT_ONCE],
            }
            outputs = await model.graphs["forward"].infer(inputs, call.deadline, call.priority)
            parts.append(outputs["logits"][:, : len(table.classes)])
        unsure = card.decision["unsure"]
        results = await pools.inline_or_codecs(
            inline, _classifications, np.concatenate(parts), table, queries, request.top_k, unsure
        )
        return pb.PredictFromExamplesResponse(
            model=card.name, version=card.version, results=results, notices=table.notices
        )


def _classifications(
    logits: NDArray[np.float32], table: LearnedFrom, queries: NDArray[np.float32], top_k: int, unsure: float
) -> list[Classification]:
    classes = best_first(softmax(logits), table.classes, top_k)
    return [
        Classification(classes=own, notices=notices_of(table, queries[i], i, own[0].probability, unsure))
        for i, own in enumerate(classes)
    ]
