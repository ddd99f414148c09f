"""PredictService through gRPC."""

from __future__ import annotations

import grpc
import numpy as np
import onnxruntime
import pytest

from artifacts.card import Card, TabularPreprocessing
from lectern.v1 import predict_pb2 as pb
from lectern.v1.notice_pb2 import NOTICE_CODE_OUT_OF_RANGE
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
    np.testing.assert_allclose(predicted, expected.clip(0, 100), rtol=1e-4, atol=1e-4)
    assert [r.clamped for r in response.results] == [not 0 <= value <= 100 for value in expected[:, 0]]


@pytest.fixture(scope="module")
def survey() -> np.ndarray:
    """Rows as of the survey: each of another state, every answer in the middle of what training saw."""
    table = Card.read(VERSION / "card.json").preprocessing
    assert isinstance(table, TabularPreprocessing)
    assert table.bounds is not None
    ((first, end),) = table.one_of
    rows = np.tile(np.mean(table.bounds, axis=1), (end - first, 1))
    rows[:, first:end] = np.eye(end - first)
    return rows.astype(np.float32)


def test_rows_like_those_of_training_have_no_notices(stub: PredictServiceStub, survey: np.ndarray) -> None:
    for strict in (False, True):
        response = stub.Predict(pb.PredictRequest(rows=rows(survey), strict=strict), timeout=WAIT)
        assert not any(result.notices or result.clamped for result in response.results)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (0, 0.0, "of AL to WA one must be 1 and the others 0"),
        (1, 1.0, "of AL to WA one must be 1 and the others 0"),
        (0, 0.5, "of AL to WA one must be 1 and the others 0"),
        (37, 200.0, "cli is 200, beyond -0.07883 to 3.432"),
        (37, -5.0, "cli is -5, beyond -0.07883 to 3.432"),
    ],
)
def test_a_row_unlike_those_of_training_has_a_notice_or_is_refused(
    stub: PredictServiceStub, survey: np.ndarray, column: int, value: float, says: str
) -> None:
    given = survey[[0, 0]]
    given[1, column] = value
    fine, doubtful = stub.Predict(pb.PredictRequest(rows=rows(given)), timeout=WAIT).results
    assert not fine.notices
    (notice,) = doubtful.notices
    assert (notice.code, notice.field) == (NOTICE_CODE_OUT_OF_RANGE, "rows[1]")
    assert says in notice.text
    request = pb.PredictRequest(rows=rows(given), strict=True)
    code, message, fields = failure(lambda: stub.Predict(request, timeout=WAIT))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert says in message
    assert fields == ["rows[1]"]


def test_a_share_is_0_to_100_percent(stub: PredictServiceStub, width: int) -> None:
    (result,) = stub.Predict(pb.PredictRequest(rows=rows(np.full((1, width), 200.0))), timeout=WAIT).results
    assert (list(result.values), result.clamped) == ([100.0], True)
    (notice,) = result.notices
    assert notice.text.endswith("; and so are 76 more")


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
