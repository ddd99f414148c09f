"""Which figures of a new version and of the served one are compared, and what counts as good enough."""

from __future__ import annotations

import pytest

from artifacts.card import Metric
from training.comparison import compare

ACCURACY = Metric(name="accuracy", value=0.9, split="test", n=100)
ERROR = Metric(name="mse", value=1.0, split="test", n=100, at_most=True)
FRESH = Metric(name="accuracy_fresh", value=0.8, split="test", n=40)


def changed(metric: Metric, **fields: object) -> Metric:
    return metric.model_copy(update=fields)


@pytest.mark.parametrize(
    ("served", "new", "verdict"),
    [
        (ACCURACY, changed(ACCURACY, value=0.91), "better"),
        (ACCURACY, ACCURACY, "equal"),
        (ACCURACY, changed(ACCURACY, value=0.89), "worse"),
        (ERROR, changed(ERROR, value=0.9), "better"),
        (ERROR, changed(ERROR, value=1.1), "worse"),
        (ACCURACY, changed(ACCURACY, value=float("nan")), "worse"),
        (ERROR, changed(ERROR, value=float("nan")), "worse"),
        (ACCURACY, changed(ACCURACY, value=0.99, n=99), "not comparable: measured on other items"),
        (ACCURACY, changed(ACCURACY, name="f1", value=0.99), "not comparable: the served version has no such figure"),
    ],
)
def test_the_headline_decides(served: Metric, new: Metric, verdict: str) -> None:
    (comparison,) = compare([served], [new])
    assert comparison.verdict == verdict
    assert comparison.as_good is (verdict in ("better", "equal"))


def test_the_headline_is_the_first_figure_of_the_test_split() -> None:
    validation = changed(ACCURACY, split="validation", value=0.1)
    second = Metric(name="f1", value=0.1, split="test", n=100)
    (comparison,) = compare([second, ACCURACY], [validation, ACCURACY, second])
    assert (comparison.served, comparison.new) == (ACCURACY, ACCURACY)


@pytest.mark.parametrize(
    ("new", "verdicts"),
    [
        ([changed(FRESH, value=0.81)], ["better", "better"]),
        ([changed(FRESH, value=0.79)], ["better", "worse"]),
        ([], ["better", "not comparable: the new version has no such figure"]),
    ],
)
def test_a_fresh_set_of_the_served_version_decides_too(new: list[Metric], verdicts: list[str]) -> None:
    comparisons = compare([ACCURACY, FRESH], [changed(ACCURACY, value=0.95), *new])
    assert [comparison.verdict for comparison in comparisons] == verdicts


def test_a_first_fresh_set_has_nothing_to_be_compared_with() -> None:
    assert [comparison.verdict for comparison in compare([ACCURACY], [ACCURACY, FRESH])] == ["equal"]
