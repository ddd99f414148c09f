"""PredictService: numbers or classes from rows of features."""

from __future__ import annotations

from lectern.v1 import predict_pb2 as pb
from services.capability import Capability, Pod

FEATURES = 116  # of the default model

CAPABILITY = Capability(
    package=__name__,
    contract=pb.DESCRIPTOR,
    servicer="services.predict.servicer:PredictServicer",
    default_models={"Predict": "covid_regressor", "PredictFromExamples": "table_learner"},
    command="lectern predict rows.csv",
    example=lambda _: pb.PredictRequest(rows=[pb.FeatureRow(features=[0] * FEATURES)]),
    pod=Pod(memory="192Mi", memory_limit="512Mi"),
)
