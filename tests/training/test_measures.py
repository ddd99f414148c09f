"""What bounds a figure: intervals, classes, calibration; and that committed cards have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from artifacts.card import Limits, Metric
from artifacts.versions import read_card
from lectern.cli.cards import main_metric
from tests.conftest import ROOT
from training import measures, recipes
from training.export.parity import ExportError
from training.export.version import add_figures
from training.measures import Decisions, Evaluation

# Why these have none is said in training/measures.py and docs/models.md.
WITHOUT_INTERVAL = {"expected_calibration_error", "fid", "forgetting", "forgetting_permutations", "speedup_int8"}
UNTOLD = {"poem_generator": "perplexity"}  # nothing served tells the probability of a given poem; training does
LIMITS = Limits(intended="tests", failures=("everything else",))


@pytest.mark.parametrize("name", recipes.shipped())
def test_a_committed_card_says_what_bounds_it(name: str) -> None:
    card = read_card(ROOT / "exported" / name)
    assert card.limits == recipes.load(name).LIMITS
    for metric in card.metrics:
        if metric.name in WITHOUT_INTERVAL or metric.name == UNTOLD.get(name):
            continue
        assert metric.interval is not None, metric.name
        assert metric.interval[0] <= metric.value <= metric.interval[1], metric
    if "classification" in card.task and card.labels:  # few_shot_classifier's classes come with the request
        assert [scores.label for scores in card.per_class] == list(card.labels)
        assert card.calibration is not None
        assert sum(b.n for b in card.calibration.bins) == sum(scores.n for scores in card.per_class)


def test_wilson_holds_at_the_ends_and_in_the_middle() -> None:
    # Agresti and Coull, "Approximate is Better than Exact" (1998), and by hand.
    assert measures.wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert measures.wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert measures.wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_an_area_has_the_error_of_hanley_and_mcneil() -> None:
    metric = measures.area("roc_auc", [0.893], 51, 58)  # their own example, with a standard error of 0.032
    assert metric.interval == pytest.approx((0.893 - 1.96 * 0.032, 0.893 + 1.96 * 0.032), abs=2e-3)
    assert metric.n == 109


def test_a_bootstrap_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    metric = measures.mean("mean_reward", values)
    assert metric.interval is not None
    assert measures.bootstrap(np.mean, values) == pytest.approx(metric.interval, abs=0.03)
    assert measures.bootstrap(np.mean, values) == measures.bootstrap(np.mean, values)


def test_whole_groups_are_wider_than_their_items() -> None:
    right, counted = np.repeat([0.0, 50.0], 20), np.full(40, 50.0)  # groups that are all right, or all wrong
    low, high = measures.bootstrap(measures.ratio, right, counted)
    item_low, item_high = measures.wilson(0.5, 2000)
    assert high - low > 3 * (item_high - item_low)
    fewer = measures.share("accuracy", 0.5, 2000, independent=40)
    assert fewer.n == 2000
    assert fewer.interval == measures.wilson(0.5, 40)


def test_each_class_and_the_calibration_of_decisions() -> None:
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    decisions, labels = Decisions.of(logits), np.array([0, 1, 1, 1])
    assert decisions.confidences == pytest.approx([0.9, 0.9, 0.6, 0.6])
    evaluation = measures.classified(decisions, labels, ("cat", "dog"), ())
    cat, dog = evaluation.per_class
    assert (cat.label, cat.n, cat.precision, cat.recall) == ("cat", 1, 0.5, 1.0)
    assert (dog.label, dog.n, dog.precision, dog.recall, dog.f1) == ("dog", 3, 1.0, 0.6667, 0.8)
    assert evaluation.calibration is not None
    assert evaluation.calibration.error == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    assert [(b.confidence, b.accuracy, b.n) for b in evaluation.calibration.bins] == [(0.6, 1.0, 2), (0.9, 0.5, 2)]


def test_a_card_is_completed_and_keeps_its_values(tmp_path: Path) -> None:
    card = read_card(ROOT / "exported" / "style_translator").model_copy(update={"limits": None})
    bare = tuple(metric.model_copy(update={"interval": None}) for metric in card.metrics)
    (tmp_path / card.name / str(card.version)).mkdir(parents=True)
    incomplete, name = card.model_copy(update={"metrics": bare}), bare[0].name
    measured = Evaluation((measures.share(name, 0.81, 10_000),))
    written = add_figures(incomplete, measured, Evaluation(()), LIMITS, tmp_path)
    assert written == read_card(tmp_path / card.name, card.version)
    assert written.limits == LIMITS
    assert [m.value for m in written.metrics] == [m.value for m in card.metrics]
    assert written.metrics[0].interval == measured.metrics[0].interval
    assert written.metrics[1].interval == measures.wilson(bare[1].value, bare[1].n)  # not measured again
    other = replace(measured, metrics=(measures.share(name, 0.5, 10_000),))
    with pytest.raises(ExportError, match=f"{name} 0.8135, measured now: 0.49"):
        add_figures(incomplete, other, Evaluation(()), LIMITS, tmp_path)


def test_an_interval_is_in_order_and_limits_name_a_failure() -> None:
    with pytest.raises(ValidationError, match=r"must be \[low, high\]"):
        Metric(name="mse", value=1, split="test", n=1, interval=(2, 1))
    with pytest.raises(ValidationError, match="at least 1"):
        Limits(intended="all", failures=())


def test_the_list_of_models_says_the_interval_and_a_missed_target() -> None:
    card = read_card(ROOT / "exported" / "style_translator").model_dump()
    assert main_metric(card) == "accuracy 0.8135 (0.806 to 0.821), missed"
    card = read_card(ROOT / "exported" / "image_classifier").model_dump()
    assert main_metric(card) == "accuracy 0.9347 (0.93 to 0.939)"
