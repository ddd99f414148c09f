"""Recipes of other packages, by the entry point `lectern.recipes`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lectern import Client
from tests.conftest import ROOT, serving
from tests.waiting import WAIT
from training import TrainingError, recipes

PAGE = (ROOT / "docs" / "add-a-model.md").read_text()
(RECIPE,) = re.findall(r"<!-- write: training/recipes/covid_line\.py -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL)

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a distribution `garden` with these recipes, as pip leaves it, and put it on the path."""

    def install(source: str, **names: str) -> None:
        (tmp_path / "garden_recipes.py").write_text(source)
        (information := tmp_path / "garden-1.0.dist-info").mkdir(exist_ok=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: garden\nVersion: 1.0\n")
        lines = "".join(f"{name} = {module}\n" for name, module in names.items())
        (information / "entry_points.txt").write_text(f"[lectern.recipes]\n{lines}")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "garden_recipes", raising=False)

    return install


def test_a_recipe_of_another_package_is_trained_and_served(install: Install, tmp_path: Path) -> None:
    install(RECIPE.replace("covid_line", "garden_line"), garden_line="garden_recipes")
    command = [sys.executable, "-m", "lectern", "train", "garden_line", "--fast", "--output", str(tmp_path / "models")]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "LECTERN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    with serving(tmp_path, "predict", repository=tmp_path / "models") as server, Client(server.target) as client:
        (result,) = client.predict([[1.0] * 116], "garden_line").results
    assert len(result.values) == 1


@pytest.mark.unit
def test_it_is_named_beside_ours_but_trained_only_when_named(install: Install) -> None:
    before = recipes.names()
    source = "NEEDS, MEMORY, SHIPPED, LIMITS = {}, 1, True, None\ntrain = evaluate = print\n"
    install(source, garden_line="garden_recipes")
    assert set(recipes.names()) == {*before, "garden_line"}
    assert recipes.load("garden_line").MEMORY == 1
    assert recipes.own() == before  # of which `lectern train --all` trains those that are shipped


@pytest.mark.unit
@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "covid_regressor", "garden brings a recipe covid_regressor, and so does Lectern: rename one"),
        ("", "Garden", "garden brings a recipe 'Garden': a name has a-z, 0-9 and _"),
        ("NEEDS = {}", "garden_line", "lacks MEMORY, SHIPPED, LIMITS, train, evaluate"),
        ("raise OSError('no seeds')", "garden_line", "the recipe garden_line of garden cannot be imported: no seeds"),
    ],
)
def test_one_that_is_none_says_why(install: Install, source: str, name: str, message: str) -> None:
    install(source, **{name: "garden_recipes"})
    with pytest.raises(TrainingError) as refused:
        recipes.load(name)
    assert message in str(refused.value)


@pytest.mark.unit
def test_a_name_that_is_like_another_is_asked_about() -> None:
    with pytest.raises(TrainingError, match=r"no recipe 'covid_regresor' \(did you mean 'covid_regressor'\?\)"):
        recipes.load("covid_regresor")
