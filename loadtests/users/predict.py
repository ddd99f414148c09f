"""Users of PredictService: rows of as many features as the descriptor's example has, and small tables with examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from locust import task

from lectern.v1 import predict_pb2, predict_pb2_grpc
from loadtests.user import GrpcUser
from services.predict import CAPABILITY

MODEL = "covid_regressor"
BATCH, EXAMPLES = 64, 50
RANDOM = np.random.default_rng()
FEATURES = len(CAPABILITY.example(Path(__file__).parents[2] / "docs" / "examples").rows[0].features)


class PredictUser(GrpcUser):
    """Most calls carry one row."""

    def on_start(self) -> None:
        self.stub = predict_pb2_grpc.PredictServiceStub(self.channel)

    def row(self) -> predict_pb2.FeatureRow:
        """Shares of a population in per cent, as the survey's columns are."""
        return predict_pb2.FeatureRow(features=RANDOM.uniform(0, 100, FEATURES))

    @task(1)
    def by_examples(self) -> None:
        """Two classes that differ in one of four columns."""
        examples = [
            predict_pb2.LabelledRow(features=[i % 2 + RANDOM.normal(), *RANDOM.normal(size=3)], label=f"{i % 2}")
            for i in range(EXAMPLES)
        ]
        queries = [predict_pb2.FeatureRow(features=RANDOM.normal(size=4))]
        request = predict_pb2.PredictFromExamplesRequest(examples=examples, queries=queries)
        self.call(self.stub.PredictFromExamples, request, f"PredictFromExamples, {EXAMPLES} examples")

    @task(9)
    def one_row(self) -> None:
        self.call(self.stub.Predict, predict_pb2.PredictRequest(model=MODEL, rows=[self.row()]), "Predict")

    @task(1)
    def a_batch(self) -> None:
        rows = [self.row() for _ in range(BATCH)]
        self.call(self.stub.Predict, predict_pb2.PredictRequest(model=MODEL, rows=rows), f"Predict, {BATCH} rows")
