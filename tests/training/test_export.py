"""What training writes: tables and figures in the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lectern import card
from lectern.card import Card, DataSource, Metric, Table, TabularPreprocessing
from training.data.fetch import sha256_file
from training.export.version import write_version
from training.recipe import Figure, Graph, Trained

TABLE = Table(title="sizes", columns=("network", "bytes"), rows=(("linear", 12), ("none", 0.5)))


@pytest.fixture
def trained() -> Trained:
    """A linear layer, untrained."""
    return Trained(
        title="linear",
        lecture="HW1",
        capability="predict",
        task="test",
        description="A layer.",
        graphs={"forward": Graph(nn.Linear(2, 1), {"features": torch.randn(2, 2)}, ("prediction",))},
        preprocessing=TabularPreprocessing(features=("a", "b"), targets=("y",)),
        metrics=(Metric(name="mse", value=1.0, split="test", n=1),),
        data=(DataSource(source="none", version="0", sha256="0" * 64, licence="", train=0, validation=0, test=0),),
        device="CPU",
        parameters=3,
    )


def test_a_card_holds_tables_and_figures(tmp_path: Path, trained: Trained) -> None:
    figure = Figure("A curve", "curve.png", b"\x89PNG")
    write_version("linear", replace(trained, tables=(TABLE,), figures=(figure,)), tmp_path, "test", 0, 0.0)
    found = Card.read(tmp_path / "linear" / "1" / "card.json")
    assert found.tables == (TABLE,)
    assert [type(cell) for cell in found.tables[0].rows[0]] == [str, int]
    assert [(f.title, f.file) for f in found.figures] == [("A curve", "curve.png")]
    assert (tmp_path / "linear" / "1" / "curve.png").read_bytes() == figure.png
    for relative, checksum in found.files.items():
        assert sha256_file(tmp_path / relative) == checksum
    with pytest.raises(ValidationError, match=r"checksum of the figure curve\.png"):
        Card.model_validate(found.model_dump() | {"files": {}})


def test_a_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValidationError, match="2 cells"):
        Table(title="sizes", columns=("network", "bytes"), rows=(("linear",),))


@pytest.mark.parametrize("file", ["../evil.png", "sub/curve.png", "curve.svg", ".png"])
def test_a_figure_lies_beside_its_card(file: str) -> None:
    with pytest.raises(ValidationError):
        card.Figure(title="A curve", file=file)
