"""`lectern explain`, `compare-explanations` and `explain-model`, and the clients' methods beneath them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

import lectern
from lectern.cli import waiting
from lectern.methods import explanation_method
from tests.conftest import ROOT
from tests.lectern.test_cli import Run, invoke, refused, run
from tests.waiting import WAIT, wait_until

__all__ = ["run"]

CAT = ROOT / "docs" / "examples" / "cat.png"
SURVEY = ROOT / "docs" / "examples" / "survey.csv"


def test_a_picture_says_why(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    assert run("explain", CAT, "--method", "grad-cam", "--out", out).returncode == 0
    assert Image.open(out).format == "PNG"
    piped = run("explain", "-", "--method", "saliency", "--out", "-", stdin=CAT.read_bytes())
    assert Image.open(io.BytesIO(piped.stdout)).format == "PNG"


@pytest.mark.unit
def test_a_terminal_shows_how_long_an_answer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    with waiting.elapsed(Console(file=screen, force_terminal=True), 300):
        wait_until(lambda: "of at most 300 s" in screen.getvalue())


@pytest.mark.unit
def test_what_answers_at_once_shows_nothing() -> None:
    screen = io.StringIO()
    with waiting.elapsed(Console(file=screen, force_terminal=True), 300):
        pass
    assert not screen.getvalue()


def test_a_pipe_has_the_answer_alone(run: Run) -> None:
    assert run("explain", SURVEY, "--method", "kernel-shap").stderr == b""


def test_json_has_the_values(run: Run) -> None:
    options = ("--method", "smooth-grad", "--samples", 4, "--class", "dog", "--json")
    answer = json.loads(run("explain", CAT, *options).stdout)
    assert (answer["model"], answer["target"], answer["shape"]) == ("image_classifier", "dog", [32, 32, 3])
    assert len(answer["values"]) == 32 * 32 * 3


def test_a_row_is_explained_by_its_features(run: Run) -> None:
    done = run("explain", SURVEY, "--row", 2, "--method", "gradient-times-input")
    assert done.returncode == 0, done.stderr
    assert "tested_positive.3" in done.stdout.decode()


def test_a_comparison_is_a_table(run: Run, tmp_path: Path) -> None:
    methods = ("--method", "saliency", "--method", "grad-cam")
    answer = json.loads(run("compare-explanations", CAT, CAT, *methods, "--json").stdout)
    assert [entry["method"] for entry in answer["methods"]] == ["saliency", "grad_cam", "random", "edges"]
    out = tmp_path / "sheet.png"
    assert run("compare-explanations", CAT, *methods, "--out", out).returncode == 0
    assert Image.open(out).width > 400


def test_what_a_model_has_learned(run: Run, tmp_path: Path) -> None:
    done = run("explain-model")
    assert "blocks.2" in done.stdout.decode()
    probes = json.loads(run("explain-model", "--json").stdout)["probes"]
    assert {"layer", "property", "accuracy", "chance"} <= set(probes[0])
    out = tmp_path / "filters.png"
    options = ("--layer", "whiten", "--unit", 1, "--steps", 3)
    assert run("explain-model", "image_classifier", *options, "--out", out).returncode == 0
    assert Image.open(out).format == "PNG"


def test_what_is_wrong_is_named(run: Run, tmp_path: Path) -> None:
    refused(run("explain", CAT, "--method", "guess"), 2, "no method 'guess'", "smooth_grad")
    refused(run("explain", CAT, "--method", "saliency", "--samples", 3), 2, "saliency has no 'samples'")
    refused(run("explain", CAT, "--steps", 10**6), 1, "integrated_gradients.steps", "1 to 1000")
    refused(run("explain", CAT, "--class", "tree"), 1, "target_label", "airplane")
    refused(run("explain", SURVEY, "--row", 1000), 2, "not 1000")
    refused(invoke("explain"), 2, "--text")
    refused(invoke("explain", CAT, "--text", "a cat"), 2, "--text")
    refused(run("explain", CAT, "--question", "Who?"), 2, "a question needs a text")
    refused(run("explain", CAT, "--to", 1), 2, "a span needs audio")
    refused(run("explain", "--text", "Fine.", "--method", "saliency"), 1, "method", "occlusion")
    refused(run("explain-model", "image_classifier", "--generator", "face_generator"), 2, "--class")
    refused(invoke("compare-explanations", CAT, CAT, "--out", "sheet.png"), 2, "name one file")
    refused(invoke("make-explainable", "few_shot_classifier"), 1, "image_classifier")
    refused(invoke("make-explainable", "covid_regressor", "--repository", tmp_path), 1, "train it first")


async def test_both_clients_answer_alike(server: Any) -> None:
    methods = ("saliency", explanation_method("smooth_grad", samples=3))
    with lectern.Client(server.target, timeout=WAIT) as client:
        explained = client.explain(CAT, "smooth_grad", samples=3, seed=5)
        compared, learned = client.compare(CAT, methods), client.explain_model()
        with pytest.raises(ValueError, match="one of them"):
            client.explain()
    async with lectern.aio.Client(server.target, timeout=WAIT) as client:
        assert await client.explain(CAT, "smooth_grad", samples=3, seed=5) == explained
        assert await client.compare(CAT, methods) == compared
        assert await client.explain_model() == learned
