"""docs/add-a-capability.md and docs/add-a-model.md: each page, followed in a copy of the tree, gives what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import EXPORTED, ROOT, Server, serving
from tests.waiting import WAIT

BIN = Path(sys.executable).parent
MOST_FILES, MOST_LINES = 4, 150


@dataclass(frozen=True)
class Page:
    """A page whose blocks of code follow marks: `write: FILE`, `apply`, `make`, `run`."""

    text: str

    def blocks(self, mark: str) -> list[tuple[str, str]]:
        """What follows the mark in each comment, and the block below it."""
        return re.findall(rf"<!-- {mark}(?:: (\S+))? -->\n```\w+\n(.*?)```", self.text, flags=re.DOTALL)

    def commands(self, mark: str) -> list[str]:
        """Every line of the blocks with this mark."""
        return [line.removeprefix("$ ") for _, block in self.blocks(mark) for line in block.splitlines()]


@dataclass(frozen=True)
class Tree:
    """A copy of the project, whose programs run by its own code."""

    root: Path

    def run(self, *command: str, **variables: str) -> str:
        """What a command prints; it must succeed."""
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(self.root), **variables}
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=self.root, env=environment, timeout=WAIT, check=False
        )
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        return result.stdout

    def follow(self, page: Page) -> tuple[set[str], int]:
        """Write, apply and make what the page says; which files it changes by hand, and how many lines it adds."""
        written = page.blocks("write")
        for name, text in written:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)
        changes = "".join(text for _, text in page.blocks("apply"))
        if changes:
            subprocess.run(("git", "apply", "--recount", "-"), input=changes, text=True, cwd=self.root, check=True)
        for command in page.commands("make"):
            # The environment is this test's own: it is not set up again.
            self.run(*command.split(), f"VENV={sys.prefix}", "--old-file", f"{sys.prefix}/.dev")
        files = {name for name, _ in written} | set(re.findall(r"^\+\+\+ b/(.*)$", changes, flags=re.MULTILINE))
        added = re.findall(r"^\+(?!\+\+ )", changes, flags=re.MULTILINE)
        return files, len(added) + sum(text.count("\n") for _, text in written)

    def check_style(self, *files: str) -> None:
        """What `make lint` says of the files, and of what is generated."""
        sources = [name for name in files if name.endswith(".py")]
        self.run("ruff", "check", *sources)
        self.run("ruff", "format", "--check", *sources)
        self.run("buf", "lint")
        self.run(sys.executable, "scripts/capabilities.py", "--check")
        self.run(sys.executable, "scripts/monitoring.py", "--check")
        self.run(sys.executable, "scripts/unasync.py", "--check")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The project without its models, but for one."""
    root = tmp_path_factory.mktemp("copy") / "lectern"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "exported"))
    for model in EXPORTED.glob("covid_regressor*"):
        shutil.copytree(model, root / "exported" / model.name)
    return Tree(root)


CAPABILITY_PAGE = Page((ROOT / "docs" / "add-a-capability.md").read_text())


@pytest.fixture(scope="module")
def changed(tree: Tree) -> tuple[set[str], int]:
    """The files that a new capability takes, and their lines."""
    return tree.follow(CAPABILITY_PAGE)


@pytest.fixture(scope="module")
def ranking(tree: Tree, changed: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the copy, with the new capability among its others."""
    with (
        chdir(tree.root),  # where `python -m lectern` looks first
        serving(tmp_path_factory.mktemp("ranking"), repository=tree.root / "exported") as server,
    ):
        yield server


def test_a_capability_takes_four_files(tree: Tree, changed: tuple[set[str], int]) -> None:
    files, lines = changed
    assert len(files) <= MOST_FILES
    assert lines <= MOST_LINES
    tree.check_style(*files, "loadtests/users/rank.py")


def test_the_new_rpc_answers(tree: Tree, ranking: Server) -> None:
    *_, command = CAPABILITY_PAGE.commands("run")
    for shown in CAPABILITY_PAGE.commands("run"):
        tree.run(*shown.split(), LECTERN_TARGET=ranking.target)
    ranked = json.loads(tree.run(*command.split(), LECTERN_TARGET=ranking.target))
    predicted = json.loads(tree.run(*command.replace("rank", "predict").split(), LECTERN_TARGET=ranking.target))
    predictions = [result["values"][0] for result in predicted["results"]]
    assert ranked["model"] == "covid_regressor"
    assert [(result["prediction"], result["row"]) for result in ranked["results"]] == sorted(
        ((prediction, row) for row, prediction in enumerate(predictions)), reverse=True
    )


def test_the_client_asks_it(tree: Tree, ranking: Server) -> None:
    program = "import lectern, sys; print(len(lectern.Client(sys.argv[1]).rank([[1] * 116] * 3).results))"
    assert tree.run(sys.executable, "-c", program, ranking.target) == "3\n"


def test_it_has_a_health_status_and_a_token_scope(tree: Tree, ranking: Server, tmp_path: Path) -> None:
    with grpc.insecure_channel(ranking.target) as channel:
        request = health_pb2.HealthCheckRequest(service="lectern.v1.RankService")
        reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    tree.run("lectern", "token", "create", "website", "--scope", "rank", "--file", str(tmp_path / "tokens.json"))


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_it_is_deployed(tree: Tree, changed: object, overlay: str) -> None:
    directory = f"deploy/overlays/{overlay}"
    tree.run(sys.executable, "deploy/check.py", directory)
    manifests: list[dict[str, Any]] = list(yaml.safe_load_all(tree.run("kubectl", "kustomize", directory)))
    (deployment,) = (m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"] == "lectern-rank")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["serve", "rank"]
    assert container["readinessProbe"]["grpc"]["service"] == "lectern.v1.RankService"
    if overlay == "cpu":
        assert container["resources"] == {
            "requests": {"cpu": "1", "memory": "192Mi"},
            "limits": {"cpu": "2", "memory": "512Mi"},
        }


def test_a_changed_descriptor_makes_the_manifests_stale(tree: Tree, changed: object) -> None:
    descriptor = tree.root / "services" / "rank" / "__init__.py"
    text = descriptor.read_text()
    descriptor.write_text(text.replace("192Mi", "193Mi"))
    environment = os.environ | {"PYTHONPATH": str(tree.root)}
    command = (sys.executable, "scripts/capabilities.py", "--check")
    result = subprocess.run(command, capture_output=True, text=True, cwd=tree.root, env=environment, timeout=WAIT)
    descriptor.write_text(text)
    assert result.returncode == 1
    assert result.stdout.startswith("deploy/base/capabilities/rank/kustomization.yaml is not current")


MODEL_PAGE = Page((ROOT / "docs" / "add-a-model.md").read_text())


@pytest.fixture(scope="module")
def recipe(tree: Tree) -> set[str]:
    """The files that a new model takes."""
    return tree.follow(MODEL_PAGE)[0]


def test_a_model_takes_one_file(tree: Tree, recipe: set[str]) -> None:
    assert len(recipe) == 1
    tree.check_style(*recipe)


def test_the_new_model_is_trained_and_answers(tree: Tree, recipe: set[str], tmp_path: Path) -> None:
    for command in MODEL_PAGE.commands("train"):
        tree.run(*command.split(), LECTERN_CACHE=str(tmp_path / "cache"))
    with chdir(tree.root), serving(tmp_path, repository=tree.root / "build" / "exported") as server:
        models, predictions = (
            tree.run(*command.split(), LECTERN_TARGET=server.target) for command in MODEL_PAGE.commands("run")
        )
    assert "covid_line" in models
    _, *rows = predictions.splitlines()
    assert all(0 < float(row) < 100 for row in rows)
    assert len(rows) == len((ROOT / "docs" / "examples" / "survey.csv").read_text().splitlines()) - 1
