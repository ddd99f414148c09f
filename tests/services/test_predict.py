"""PredictService through gRPC."""

from __future__ import annotations

import grpc
import numpy as np
import onnxruntime
import pytest

from artifacts.card import Card, TabularPreprocessing
from lectern.v1 import predict_pb2 as pb
from lectern.v1.predict_pb2_grpc import PredictServiceStub
from tests.conftest import EXPORTED
from tests.services.test_classify import failure
from tests.waiting import WAIT

VERSION = EXPORTED / "covid_regressor" / "1"


@pytest.fixture
def stub(channel: grpc.Channel) -> PredictServiceStub:
    return PredictServiceStub(channel)


@pytest.fixture(scope="module")
def width() -> int:
    preprocessing = Card.read(VERSION / "card.json").preprocessing
    assert isinstance(preprocessing, TabularPreprocessing)
    return len(preprocessing.features)


def rows(matrix: np.ndarray) -> list[pb.FeatureRow]:
    return [pb.FeatureRow(features=row) for row in matrix]


def test_predicts_what_the_graph_predicts(stub: PredictServiceStub, width: int) -> None:
    features = np.random.default_rng(0).uniform(0, 20, (600, width)).astype(np.float32)
    response = stub.Predict(pb.PredictRequest(rows=rows(features)), timeout=WAIT)
    expected = onnxruntime.InferenceSession(VERSION / "model.onnx").run(None, {"features": features})[0]
    predicted = np.array([r.values for r in response.results])
    assert response.model == "covid_regressor"
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4)


def test_bad_rows_are_named(stub: PredictServiceStub, width: int) -> None:
    good = np.zeros((3, width), np.float32)
    nan = good.copy()
    nan[2, 5] = np.nan
    infinite = good.copy()
    infinite[0, 0] = np.inf
    cases = [
        ([], "rows", "at least one"),
        (rows(nan), "rows[2].features[5]", "nan"),
        (rows(infinite), "rows[0].features[0]", "inf"),
        ([*rows(good), pb.FeatureRow(features=[1.0])], "rows[3].features", f"has 1 values; the model takes {width}"),
        ([pb.FeatureRow()] * 5000, "rows", "5000 rows; the most in one request is 4096"),
    ]
    for given, field, says in cases:
        request = pb.PredictRequest(rows=given)
        code, message, fields = failure(lambda request=request: stub.Predict(request, timeout=WAIT))  # type: ignore[misc]
        assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
        assert says in message
    assert len(stub.Predict(pb.PredictRequest(rows=rows(good)), timeout=WAIT).results) == 3
