"""A new version is served if it is at least as good as the one that is, or if someone says so."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from artifacts.versions import promote, read_card, read_config, served_versions
from lectern.client import Client
from tests.conftest import serving
from tests.lectern.test_cli import invoke
from tests.training.recipes.test_recipes import QUICK, train
from tests.waiting import WAIT, wait_until

OTHER_SEED = "1"


@pytest.fixture
def repository(tmp_path: Path, trained: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one version of the quick recipe's model, which an operator runs twice at a time."""
    monkeypatch.setenv("LECTERN_CACHE", str(tmp_path / "cache"))
    copy = Path(shutil.copytree(trained(QUICK), tmp_path / "exported"))
    config = copy / QUICK / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2  # two cores"))
    return copy


def measured(repository: Path, fid: float) -> None:
    """Have the card of the served version say that of its first metric, the Fréchet distance."""
    card = read_card(repository / QUICK)
    first, *others = card.metrics
    metrics = (first.model_copy(update={"value": fid}), *others)
    card.model_copy(update={"metrics": metrics}).write(repository / QUICK / str(card.version) / "card.json")


def test_a_worse_version_is_written_and_served_when_asked_for(repository: Path, tmp_path: Path) -> None:
    measured(repository, fid=0.0)
    with serving(tmp_path, "generate", repository=repository, LECTERN_WATCH_SECONDS="0.1") as server:
        result = train(QUICK, "--fast", "--seed", OTHER_SEED, "--output", str(repository))
        fid = read_card(repository / QUICK, 2).metrics[0].value
        (row,) = re.findall(r".*fid.*worse.*", result.stdout)
        assert "0.0000" in row
        assert f"{fid:.4f}" in row
        command = f"lectern promote {QUICK} --repository {repository}"
        assert f"not promoted: version 1 stays in service; to serve 2 all the same, `{command}`" in result.stdout
        assert served_versions(repository / QUICK) == [1]
        config = repository / QUICK / "config.pbtxt"
        assert "count: 2  # two cores" in config.read_text()
        with Client(server.target, timeout=WAIT) as client:
            assert next(client.generate_images(seed=0, model=QUICK)).version == 1
            result = invoke(*command.split()[1:])
            assert result.returncode == 0, result.stderr
            wait_until(lambda: next(client.generate_images(seed=0, model=QUICK)).version == 2)
            assert [v.version for v in client.get_model(QUICK).model.versions] == [2]
    assert read_config(config.parent).instance_group[0].count == 2


def test_what_is_compared_is_the_served_version_and_not_the_newest(repository: Path) -> None:
    model = repository / QUICK
    measured(repository, fid=1e9)
    shutil.copytree(model / "1", model / "2")
    read_card(model, 1).model_copy(update={"version": 2}).write(model / "2" / "card.json")
    promote(repository, QUICK, [1])
    measured(repository, fid=0.0)
    printed = train(QUICK, "--fast", "--output", str(repository), "--promote").stdout
    assert re.search(r"fid.* 0\.0000 .*worse", printed)
    assert "promoted: version 3 is served in place of version 1" in printed
    assert served_versions(model) == [3]


def test_what_cannot_be_compared_with_is_said_before_training(repository: Path) -> None:
    (repository / QUICK / "1" / "card.json").write_text("{}")
    result = train(QUICK, "--fast", "--output", str(repository), check=False)
    assert result.returncode == 1
    assert f"the card of {QUICK} version 1 cannot be read" in result.stderr
    assert not (repository / QUICK / "2").exists()


def test_where_nothing_can_be_written_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = train(QUICK, "--fast", "--output", str(tmp_path / "file" / "exported"), check=False)
    assert result.returncode == 1
    assert "file: Not a directory" in result.stderr or "exported: Not a directory" in result.stderr
    assert "epoch" not in result.stdout
