"""A graph that is exported again from its own weights is the same file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from artifacts.versions import read_card
from training.reexport import reexport
from training.run import REPOSITORY


@pytest.mark.parametrize("graphs", [("poem_generator",), ("translator_en_zh", "translator_en_zh_step")])
def test_exporting_a_model_again_changes_nothing(tmp_path: Path, graphs: tuple[str, ...]) -> None:
    for graph in graphs:
        shutil.copytree(REPOSITORY / graph, tmp_path / graph)
    reexport(graphs[0], tmp_path)
    files = [f.relative_to(tmp_path) for f in tmp_path.rglob("*") if f.is_file() and f.name != "card.json"]
    assert [file for file in files if (tmp_path / file).read_bytes() != (REPOSITORY / file).read_bytes()] == []
    cards = [read_card(repository / graphs[0]) for repository in (tmp_path, REPOSITORY)]
    again, before = (card.model_dump(exclude={"parity"}) for card in cards)  # each CPU rounds sums otherwise
    assert again == before
