"""Every recipe end to end on its sliver: train, export, serve; interrupted and resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import onnx
import pytest
from google.protobuf import text_format

from artifacts.card import Card
from inference import model_config_pb2
from lectern.v1 import model_pb2
from lectern.v1.model_pb2_grpc import ModelServiceStub
from tests.conftest import EXPORTED, ROOT, serving
from tests.waiting import WAIT
from training import TrainingError, recipes
from training.data.fetch import sha256_file
from training.train import train as train_recipe

LESS_IS_BETTER = {"mse", "mse_by_state", "fid", "perplexity"}
QUICK = "garment_generator"  # has epochs, and one graph to export


def train(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lectern", "train", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT)
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LECTERN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", recipes.names())
def test_fast_run_trains_exports_and_serves(tmp_path: Path, name: str, trained: Callable[[str], Path]) -> None:
    output = trained(name)
    printed = output.with_suffix(".log").read_text()
    card = Card.read(output / name / "1" / "card.json")
    assert len(card.parity.batches) >= 3
    assert card.metrics
    assert card.data
    assert card.limits
    if card.capability == "classify" and name != "few_shot_classifier":  # whose classes come with the request
        assert [scores.label for scores in card.per_class] == list(card.labels)
        assert card.calibration
    assert card.training.command == f"lectern train {name} --seed 0 --fast"
    for relative, checksum in card.files.items():
        assert sha256_file(output / relative) == checksum
    for metric in card.metrics:
        assert metric.name in printed
    headline = next(metric for metric in card.metrics if metric.split == "test")  # which promotion goes by
    assert headline.at_most is (headline.name in LESS_IS_BETTER)
    config = text_format.Parse((output / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    graph = onnx.load(output / name / "1" / "model.onnx").graph
    assert [i.name for i in config.input] == [i.name for i in graph.input]
    if config.max_batch_size:
        assert all(v.type.tensor_type.shape.dim[0].dim_param == "batch" for v in (*graph.input, *graph.output))
    assert len(card.parity.runs) == 3
    assert card.parity.tolerance is not None
    assert card.parity.reason
    # One level of 256 is a matter of rounding.
    is_image = graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert card.parity.max_abs_diff <= 1 if is_image else card.parity.max_relative_diff <= card.parity.tolerance
    with serving(tmp_path, repository=output) as server, grpc.insecure_channel(server.target) as channel:
        models = ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=WAIT).models
        states = {model.name: model.versions[0].state for model in models}  # of what it stands on, too
        assert states[name] == model_pb2.MODEL_STATE_READY


def test_same_seed_gives_the_same_graph_and_a_second_run_the_next_version(tmp_path: Path) -> None:
    output = tmp_path / "exported"
    for _ in range(2):
        printed = train(QUICK, "--fast", "--seed", "3", "--output", str(output)).stdout
    assert "promoted: version 2 is served in place of version 1" in printed  # it is as good
    first, second = (Card.read(output / QUICK / v / "card.json") for v in ("1", "2"))
    assert list(first.files.values()) == list(second.files.values())
    assert first.metrics == second.metrics


def test_what_is_trained_is_trained_further(tmp_path: Path, trained: Callable[[str], Path]) -> None:
    output = shutil.copytree(trained("text_encoder"), tmp_path / "models")
    train("text_encoder", "--fast", "--further", "--promote", "--output", str(output))
    first, second = (Card.read(output / "text_encoder" / version / "card.json").training for version in "12")
    assert first is not None
    assert second is not None
    assert second.seconds > first.seconds
    assert second.command == f"{first.command} --further"
    refused = train(QUICK, "--fast", "--further", "--output", str(output), check=False)
    assert refused.returncode == 1
    assert f"{QUICK} cannot be trained further" in refused.stderr


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    output = tmp_path / "exported"
    command = [sys.executable, "-m", "lectern", "train", QUICK, "--fast", "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    checkpoints = tmp_path / "cache" / "checkpoints"
    while not any(checkpoints.glob("*.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=WAIT)
    assert process.returncode == 130, (stdout, stderr)
    assert "Traceback" not in stderr
    assert not (output / QUICK).exists()
    result = train(QUICK, "--fast", "--output", str(output))
    assert f"resuming {QUICK} after epoch" in result.stdout
    assert (output / QUICK / "1" / "card.json").is_file()
    assert not any(checkpoints.glob("*.pt"))


def test_unknown_recipe_lists_the_known_ones() -> None:
    result = train("nobody", check=False)
    assert result.returncode in (1, 2)
    assert "image_classifier" in result.stderr


@pytest.mark.unit
def test_what_a_recipe_needs_has_a_recipe_and_needs_nothing_itself() -> None:
    needs = {name: set(recipes.load(name).NEEDS.values()) for name in recipes.names()}
    assert all(not needs[needed] for of_one in needs.values() for needed in of_one)


@pytest.mark.unit
def test_what_is_shipped_is_what_is_exported() -> None:
    exported = {path.parents[1].name for path in EXPORTED.glob("*/*/card.json")}
    assert set(recipes.shipped()) == exported
    assert set(recipes.names()) - exported == {"solar_anomaly_detector"}


def test_a_recipe_is_found_by_being_there(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "training", tmp_path / "training", ignore=shutil.ignore_patterns("slivers", "__pycache__"))
    (tmp_path / "training" / "recipes" / "toy.py").write_text(
        "NEEDS, SHIPPED, LIMITS = {}, False, None\ndef train(run):\n    raise SystemExit(f'{run.name} is trained')\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "lectern", "train", "toy"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=WAIT)
    assert "toy is trained" in result.stderr


@pytest.mark.unit
def test_a_missing_teacher_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.EXPORTED", tmp_path)
    with pytest.raises(TrainingError, match="compact_classifier needs a teacher, image_classifier, which"):
        train_recipe("compact_classifier", fast=True, output=tmp_path / "output")
