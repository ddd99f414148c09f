"""The drawings of Iconify: only permissive sets, rendered centred on white."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.data import iconify
from training.data.iconify import Icon, render

SQUARE = '<path fill="currentColor" d="M0 0h8v8H0z"/>'


def drawing(body: str, width: float = 16, height: float = 16, name: str = "square") -> Icon:
    return Icon("set", name, "MIT", body, 0, 0, width, height)


def test_what_has_no_colour_of_its_own_is_black_on_white() -> None:
    picture = render(drawing(SQUARE), 32)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    assert (picture[:16, :16] == 0).all()
    assert (picture[16:] == 255).all()


def test_a_wide_drawing_is_centred() -> None:
    picture = render(drawing('<path fill="#f00" d="M0 0h16v8H0z"/>', 16, 8), 32)
    assert (picture[8:24] == (255, 0, 0)).all()
    assert (picture[:8] == 255).all()
    assert (picture[24:] == 255).all()


def test_a_broken_drawing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        render(drawing('<path d="'), 32)


@pytest.mark.unit
def test_folds_are_of_about_equal_size_and_fixed() -> None:
    folds = [drawing(SQUARE, name=str(i)).fold(10) for i in range(1000)]
    assert min(np.bincount(folds)) > 70
    assert drawing(SQUARE).fold(1000) == 253


@pytest.mark.unit
def test_only_permissive_sets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "json").mkdir(parents=True)
    licences = {"free": "MIT", "share": "CC-BY-SA-4.0", "unknown": None}
    about = {name: {"license": {"spdx": spdx} if spdx else {}} for name, spdx in licences.items()}
    (package / "collections.json").write_text(json.dumps(about))
    for name in licences:
        icons = {"b": {"body": SQUARE}, "a": {"body": SQUARE, "width": 30, "left": 2}}
        (package / "json" / f"{name}.json").write_text(json.dumps({"prefix": name, "height": 20, "icons": icons}))
    monkeypatch.setattr(iconify, "SOURCE", _Unpacked(tmp_path))
    drawn = list(iconify.icons())
    assert [icon.id for icon in drawn] == ["free:a", "free:b"]
    assert [(i.left, i.top, i.width, i.height) for i in drawn] == [(2, 0, 30, 20), (0, 0, 16, 20)]
    assert {icon.licence for icon in drawn} == {"MIT"}


class _Unpacked:
    """Stands for the package, already unpacked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fetch(self) -> Path:
        return self._path
