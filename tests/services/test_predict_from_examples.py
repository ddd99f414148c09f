"""PredictService.PredictFromExamples through gRPC, by a small model that was trained on a few synthetic tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from lectern import Client
from lectern.v1 import notice_pb2
from services.limits import Limits
from tests.conftest import Server
from tests.services.test_classify import failure
from tests.waiting import WAIT

RANDOM = np.random.default_rng(0)
LABELS = ["dry", "wet"] * 20
ROWS = RANDOM.normal(0, 1, (40, 3)) + 4 * np.array([[label == "wet", 0, 0] for label in LABELS])
QUERIES = ROWS[:6] + RANDOM.normal(0, 0.1, (6, 3))


@pytest.fixture
def client(table_learner: Server) -> Iterator[Client]:
    with Client(table_learner.target, timeout=WAIT) as client:
        yield client


def probabilities(response: Any) -> np.ndarray:
    """Of each result's classes, in the order of their indices."""
    return np.array([[c.probability for c in sorted(r.classes, key=lambda c: c.index)] for r in response.results])


def codes(notices: Any) -> list[int]:
    return [notice.code for notice in notices]


def test_classes_are_those_of_the_examples_best_first(client: Client) -> None:
    response = client.predict_from_examples(ROWS, LABELS, QUERIES)
    assert (response.model, response.version, len(response.results)) == ("table_learner", 1, 6)
    for result in response.results:
        assert {(c.label, c.index) for c in result.classes} == {("dry", 0), ("wet", 1)}
        assert result.classes[0].probability >= result.classes[1].probability
        assert sum(c.probability for c in result.classes) == pytest.approx(1, abs=1e-5)
    assert len(client.predict_from_examples(ROWS, LABELS, QUERIES[0], top_k=1).results[0].classes) == 1


def test_an_answer_does_not_depend_on_the_other_queries(client: Client) -> None:
    together = probabilities(client.predict_from_examples(ROWS, LABELS, QUERIES))
    alone = np.concatenate([probabilities(client.predict_from_examples(ROWS, LABELS, query)) for query in QUERIES])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    many = probabilities(client.predict_from_examples(ROWS, LABELS, np.tile(QUERIES, (200, 1))))
    np.testing.assert_allclose(many[-6:], together, atol=1e-5)


def test_neither_units_nor_the_order_of_examples_matter(client: Client) -> None:
    plain = probabilities(client.predict_from_examples(ROWS, LABELS, QUERIES))
    scale, offset = np.array([1e-3, 1e6, 7]), np.array([0, 1, -50])
    scaled = probabilities(client.predict_from_examples(ROWS * scale + offset, LABELS, QUERIES * scale + offset))
    np.testing.assert_allclose(scaled, plain, atol=5e-3)
    order = np.random.default_rng(1).permutation(len(ROWS))
    shuffled = client.predict_from_examples(ROWS[order], [LABELS[i] for i in order], QUERIES)
    np.testing.assert_allclose(probabilities(shuffled), plain, atol=1e-4)


def test_cells_may_be_empty(client: Client) -> None:
    rows, queries = ROWS.copy(), QUERIES.copy()
    rows[::3, 1], queries[0] = np.nan, np.nan
    response = client.predict_from_examples(rows, LABELS, queries)
    assert np.isfinite(probabilities(response)).all()
    assert not response.notices


def test_columns_that_say_nothing_and_values_far_away_are_named(client: Client) -> None:
    rows, queries = ROWS.copy(), QUERIES.copy()
    rows[:, 2] = 5
    queries[1, 0] = 100
    response = client.predict_from_examples(rows, LABELS, queries, columns=["rain", "wind", "site"])
    (notice,) = response.notices
    assert notice.code == notice_pb2.NOTICE_CODE_LEFT_OUT
    assert "site" in notice.text
    (far,) = [n for n in response.results[1].notices if n.code == notice_pb2.NOTICE_CODE_OUT_OF_RANGE]
    assert (far.field, far.text) == ("queries[1]", "is far from all examples in: rain")
    assert notice_pb2.NOTICE_CODE_OUT_OF_RANGE not in codes(response.results[0].notices)


def test_an_unsure_answer_says_so(client: Client) -> None:
    alike = np.random.default_rng(2).normal(0, 1, (60, 2))
    response = client.predict_from_examples(alike, ["a", "b", "c"] * 20, np.zeros((1, 2)))
    best = response.results[0].classes[0].probability
    assert (notice_pb2.NOTICE_CODE_UNSURE in codes(response.results[0].notices)) == (best < 0.6)


def test_of_many_examples_some_of_each_class_are_left_out(client: Client) -> None:
    rows = np.random.default_rng(3).normal(0, 1, (1000, 2))
    labels = ["rare" if i == 500 else "one" if i % 2 else "two" for i in range(1000)]
    response = client.predict_from_examples(rows, labels, rows[:2])
    (notice,) = response.notices
    assert notice.code == notice_pb2.NOTICE_CODE_LEFT_OUT
    assert notice.text == "the answers go by 512 of the 1000 rows, of each class about the same share"
    assert len(response.results[0].classes) == 3


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"examples": ROWS[:1], "labels": LABELS[:1]}, "examples", "has 1 rows; send at least 2"),
        ({"queries": []}, "queries", "has 0 rows; send at least 1"),
        ({"labels": ["dry"] * 40}, "examples", "show 1 class; send examples of 2 to 10"),
        ({"labels": [str(i) for i in range(40)]}, "examples", "show 40 classes; send examples of 2 to 10"),
        ({"labels": ["", *LABELS[1:]]}, "examples[0].label", "is empty"),
        ({"queries": QUERIES[:, :2]}, "queries[0].features", "has 2 values; the first example has 3"),
        ({"examples": np.full((40, 3), 2.0)}, "examples", "are the same in every column"),
        ({"examples": np.full((40, 3), np.nan)}, "examples", "are the same in every column"),
        ({"examples": np.where(ROWS[2, 1] == ROWS, np.inf, ROWS)}, "examples[2].features[1]", "(column 1) is infinite"),
        ({"examples": np.zeros((40, 65)), "queries": np.zeros((1, 65))}, "examples", "have 65 columns; send 1 to 64"),
        ({"columns": ["a"]}, "columns", "has 1 names; the examples have 3 columns"),
        ({"queries": np.zeros((5000, 3))}, "queries", "has 5000 rows; the most in one request is 4096"),
        ({"version": 9}, "version", "9"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_its_field(
    client: Client, change: dict[str, Any], field: str, says: str
) -> None:
    arguments = {"examples": ROWS, "labels": LABELS, "queries": QUERIES} | change
    code, message, violated = failure(lambda: client.predict_from_examples(**arguments))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert violated == [field]
    assert says in message


def test_each_example_needs_a_label(client: Client) -> None:
    with pytest.raises(ValueError, match="40 examples and 39 labels"):
        client.predict_from_examples(ROWS, LABELS[1:], QUERIES)


def test_rows_without_examples_are_for_another_rpc(client: Client) -> None:
    code, message, violated = failure(lambda: client.predict(QUERIES, "table_learner"))
    assert (code, violated) == (grpc.StatusCode.INVALID_ARGUMENT, ["model"])
    assert "call PredictFromExamples" in message


def test_the_number_of_rows_is_a_setting() -> None:
    assert Limits().rows == 4096


def test_the_graph_answers_raw_calls(table_learner: Server) -> None:
    labels = np.array([label == "wet" for label in LABELS]).astype(np.int64)
    arrays = {"examples": ROWS.astype(np.float32), "labels": labels, "queries": QUERIES.astype(np.float32)}
    with triton.InferenceServerClient(table_learner.target) as raw:
        inputs = []
        for name, array in arrays.items():
            datatype = "INT64" if array.dtype == np.int64 else "FP32"
            (tensor := triton.InferInput(name, array.shape, datatype)).set_data_from_numpy(array)
            inputs.append(tensor)
        logits = raw.infer("table_learner", inputs).as_numpy("logits")
        assert logits.shape == (6, 10)
        assert np.isfinite(logits).all()
