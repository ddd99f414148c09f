"""`lectern show`: cards for people, from a server and from a directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import EXPORTED, Server
from tests.lectern.test_cli import invoke, refused

CARD = json.loads(sorted((EXPORTED / "image_classifier").glob("*/card.json"))[-1].read_bytes())


def test_a_card_says_what_it_is_for_and_how_good_it_is(server: Server) -> None:
    done = invoke("show", "image_classifier", target=server.target)
    assert done.returncode == 0, done.stderr
    page = done.stdout.decode()
    words = " ".join(page.split())
    assert CARD["title"] in page
    assert "image_classifier 1 · HW3 · classify · ready" in page
    for text in (CARD["description"], CARD["limits"]["intended"], *CARD["limits"]["failures"]):
        assert " ".join(text.split()) in words
    accuracy = next(line for line in page.splitlines() if line.split()[:1] == ["accuracy"])
    low, high = CARD["metrics"][0]["interval"]
    target = CARD["metrics"][0]["target"]
    assert f"{low:.4g} to {high:.4g}" in accuracy
    assert f"≥ {target:.4g} met" in accuracy
    for baseline in CARD["baselines"]:
        assert f"{baseline['name']} {baseline['value']:.4g}" in words
    worst = min(CARD["per_class"], key=lambda scores: float(scores["f1"]))
    assert f"The 5 worst of 10 classes label f1 precision recall n {worst['label']}" in words
    assert CARD["data"][0]["licence"] in words
    assert CARD["training"]["command"] in words
    assert CARD["files"]["image_classifier/1/model.onnx"][:12] in words


def test_a_homework_is_each_of_its_models_in_brief(server: Server) -> None:
    done = invoke("show", "hw7", target=server.target)
    page = done.stdout.decode()
    for name in ("question_answerer", "sentiment_classifier", "poem_generator"):
        assert f"{name} " in page
    assert "image_classifier" not in page
    assert "`lectern show entailment_classifier` has the whole card" in page


def test_a_directory_needs_no_server() -> None:
    done = invoke("show", "image_classifier", "--repository", EXPORTED)
    assert done.returncode == 0, done.stderr
    assert "image_classifier 1 · HW3 · classify · on disk" in done.stdout.decode()


def test_the_document_has_the_card(server: Server) -> None:
    for where in (("--target", server.target), ("--repository", EXPORTED)):
        (model,) = json.loads(invoke("show", "image_classifier", "--json", *where).stdout)["models"]
        (version,) = model["versions"]
        assert (model["name"], model["lecture"], version["version"]) == ("image_classifier", "HW3", 1)
        assert version["card"]["metrics"] == CARD["metrics"]


def test_a_version_can_be_chosen() -> None:
    (model,) = json.loads(invoke("show", "compact_classifier", "--json", "--repository", EXPORTED).stdout)["models"]
    numbers = [version["version"] for version in model["versions"]]
    assert len(numbers) == 2
    old = invoke("show", "compact_classifier", "--version", numbers[-1], "--repository", EXPORTED)
    assert f"compact_classifier {numbers[-1]} · " in old.stdout.decode()
    refused(invoke("show", "compact_classifier", "--version", 99, "--repository", EXPORTED), 1, "no version 99; it has")
    refused(invoke("show", "HW7", "--version", 1, "--repository", EXPORTED), 2, "models: name one of them")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("image_clasifier", "image_classifier"), ("HW33", "HW3"), ("word vector", "Word vectors")],
)
def test_what_does_not_exist_is_asked_about(name: str, meant: str) -> None:
    refused(invoke("show", name, "--repository", EXPORTED), 1, f"{name!r} (did you mean {meant!r}?)")


def test_a_model_that_was_added_has_no_figures_and_a_damaged_card_is_named(tmp_path: Path) -> None:
    added = {key: CARD[key] for key in ("name", "title", "capability", "task", "description", "files", "preprocessing")}
    (card := tmp_path / "own" / "1" / "card.json").parent.mkdir(parents=True)
    card.write_text(json.dumps(added | {"name": "own", "lecture": "", "metrics": []}))
    done = invoke("show", "own", "--repository", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "How good it is" not in done.stdout.decode()
    card.write_text("{")
    refused(invoke("show", "own", "--repository", tmp_path), 2, str(card))
    refused(invoke("show", "own", "--repository", tmp_path / "none"), 2, "none")


def test_a_list_of_models_fits_a_narrow_terminal(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("models", "--model", "HW8", target=server.target)
    assert "anomaly_detector  HW8      detect_anomaly  1     ready" in done.stdout.decode()
