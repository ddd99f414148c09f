"""Users of PredictService: rows of as many features as the model's card names."""

from __future__ import annotations

import numpy as np
from locust import task

from lectern.v1 import model_pb2, model_pb2_grpc, predict_pb2, predict_pb2_grpc
from loadtests.user import DEADLINE_SECONDS, GrpcUser

MODEL = "covid_regressor"
BATCH = 64
RANDOM = np.random.default_rng()


class PredictUser(GrpcUser):
    """Most calls carry one row."""

    def on_start(self) -> None:
        self.stub = predict_pb2_grpc.PredictServiceStub(self.channel)
        models = model_pb2_grpc.ModelServiceStub(self.channel)
        model = models.GetModel(model_pb2.GetModelRequest(model=MODEL), timeout=DEADLINE_SECONDS).model
        self.features = len(model.versions[0].card["preprocessing"]["features"])

    def row(self) -> predict_pb2.FeatureRow:
        """Shares of a population in per cent, as the survey's columns are."""
        return predict_pb2.FeatureRow(features=RANDOM.uniform(0, 100, self.features))

    @task(9)
    def one_row(self) -> None:
        self.call(self.stub.Predict, predict_pb2.PredictRequest(model=MODEL, rows=[self.row()]), "Predict")

    @task(1)
    def a_batch(self) -> None:
        rows = [self.row() for _ in range(BATCH)]
        self.call(self.stub.Predict, predict_pb2.PredictRequest(model=MODEL, rows=rows), f"Predict, {BATCH} rows")
