"""A round of trainings, as the Job of deploy/overlays/training runs it: ordered, stopped, gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deploy.test_manifests import of_kind, render
from tests.training.recipes.test_recipes import QUICK, train
from tests.waiting import WAIT, wait_until
from training import recipes


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LECTERN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def container() -> dict[str, object]:
    (job,) = of_kind(render(ROOT / "deploy" / "overlays" / "training"), "Job")
    assert job["spec"]["completions"] == len(recipes.shipped())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


def arguments(container: dict[str, object], model: str, output: Path) -> list[str]:
    """What a pod of the Job gives to `lectern`, as the kubelet fills it in; on the sliver of data."""
    values = {"$(ROUND)": "lectern-train", "$(JOB_COMPLETION_INDEX)": str(recipes.shipped().index(model))}
    return [*(values.get(part, part) for part in container["args"]), "--fast", "--output", str(output)]


def test_a_pod_waits_for_what_it_needs_and_its_successor_goes_on(container: dict[str, object], tmp_path: Path) -> None:
    output, log = tmp_path / "exported", tmp_path / "log"
    (needed,) = recipes.load(QUICK).NEEDS.values()
    command = [sys.executable, "-m", "lectern", *arguments(container, QUICK, output)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        pod = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=environment)
    try:
        wait_until(lambda: f"{QUICK} waits for {needed}, which another process trains" in log.read_text())
        train(*arguments(container, needed, output)[1:])
        wait_until(lambda: any((tmp_path / "cache" / "checkpoints").glob(f"{QUICK}*.pt")))
        pod.send_signal(signal.SIGTERM)
        assert pod.wait(WAIT) == 130, log.read_text()
    finally:
        pod.kill()
    assert (output / needed).is_dir()
    assert not (output / QUICK).exists()
    assert f"resuming {QUICK} after epoch" in train(*arguments(container, QUICK, output)[1:]).stdout
    assert (output / QUICK / "1" / "card.json").is_file()
    # One whose end the cluster has not noted does not train again.
    assert f"round lectern-train has trained {QUICK} already" in train(*arguments(container, QUICK, output)[1:]).stdout
    assert not (output / QUICK / "2").exists()


@pytest.mark.unit
def test_what_others_need_is_trained_before_them() -> None:
    models = recipes.shipped()
    for model in models:
        assert all(models.index(needed) < models.index(model) for needed in recipes.load(model).NEEDS.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all", "--round", "one", "--index", "99"], "there are 29 models, 0 to 28"),
        (["--all", "--index", "0"], "--index with --round"),
        ([QUICK, "--round", "one"], "--round goes with --all"),
    ],
)
def test_a_round_that_cannot_be_is_refused(options: list[str], message: str) -> None:
    assert message in train(*options, check=False).stderr
