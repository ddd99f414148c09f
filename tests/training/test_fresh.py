"""Fresh texts: complete, and measured through gRPC by `lectern evaluate --fresh`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, serving
from training.data import fresh, mails
from training.recipes.question_answerer import normal


def test_every_item_is_whole_and_of_some_kind() -> None:
    spam = fresh.texts("mails.tsv", mails.LABELS)
    sentiments = fresh.texts("sentiments.tsv", fresh.SENTIMENTS)
    assert len(spam) >= 40
    assert len(sentiments) >= 40
    assert set(spam.labels) == {0, 1}
    assert set(sentiments.labels) == {0, 1, 2}
    assert len(fresh.translations()) >= 40
    assert all(len(item.references) == 2 for item in fresh.translations())


def test_passages_hold_the_answers_of_their_questions() -> None:
    asked = fresh.questions()
    answerable = [q for q in asked if q.answers]
    assert len(answerable) >= 30
    assert len(asked) - len(answerable) >= 15
    for question in answerable:
        assert any(normal(answer) in normal(question.context) for answer in question.answers), question.question


@pytest.mark.parametrize(
    ("capability", "model", "metrics"),
    [
        ("classify", "sentiment_classifier", {"accuracy_fresh", "accuracy_fresh_language_notices"}),
        ("translate", "translator_en_zh", {"bleu_fresh", "accuracy_fresh_carried"}),
    ],
)
def test_a_served_model_is_measured_on_them(tmp_path: Path, capability: str, model: str, metrics: set[str]) -> None:
    with serving(tmp_path, capability) as server:
        command = [sys.executable, "-m", "lectern", "evaluate", model, "--fresh", "--json", "--target", server.target]
        printed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    measured = {metric["name"]: metric["value"] for metric in json.loads(printed.stdout)["metrics"]}
    assert metrics <= set(measured)
    assert all(0 <= value <= 100 for value in measured.values())


def test_a_model_without_fresh_texts_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, "predict") as server:
        command = [sys.executable, "-m", "lectern", "evaluate", "covid_regressor", "--fresh", "--target", server.target]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "there are fresh texts for" in result.stderr
