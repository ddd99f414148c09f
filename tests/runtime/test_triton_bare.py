"""A real Triton over directories that hold only model.onnx, or whose config leaves something out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from artifacts.versions import CONFIG
from services.triton_server.launcher import completed_repository, install
from tests.conftest import EXPORTED, Server
from tests.runtime.test_bare_models import CONFIG as PART_OF_A_CONFIG
from tests.runtime.test_bare_models import ONE, WORDS, add, multiply
from tests.runtime.test_triton import free_ports, triton


def test_triton_answers_from_a_graph_alone(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    add(repository)
    add(repository, ONE, name="one")
    add(repository, config=PART_OF_A_CONFIG, name="part")
    with triton(free_ports(3), tmp_path / "triton.log", repository) as target:
        server = Server(target, "", None, tmp_path)  # type: ignore[arg-type]  # its address is all that is used
        assert multiply(server, 2) == [[2, 2, 2], [2, 2, 2]]
        assert multiply(server, 1, "one") == [[2, 2, 2]]
        assert multiply(server, 3, "part") == [[2, 2, 2]] * 3
    assert sorted(path.name for path in (repository / "own").iterdir()) == ["1"]  # nothing was written there
    shutil.rmtree(completed_repository(install(), repository))  # which lies in the user's cache


@pytest.mark.unit
def test_a_repository_whose_configs_are_complete_is_served_as_it_is(tmp_path: Path) -> None:
    assert completed_repository(tmp_path / "home", EXPORTED) == EXPORTED


@pytest.mark.unit
def test_what_is_missing_is_completed_in_links_beside_it(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    add(repository)
    add(repository, WORDS, name="words")
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no graph")
    for _ in range(2):  # the second makes it anew
        staged = completed_repository(tmp_path / "home", repository)
    assert staged != repository
    text = (staged / "own" / CONFIG).read_text()
    assert 'backend: "onnxruntime"' in text
    assert "max_batch_size: 32" in text
    assert (staged / "own" / "1").resolve() == (repository / "own" / "1").resolve()
    assert not (staged / "broken" / CONFIG).exists()
