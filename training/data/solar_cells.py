"""ELPV (Deitsch et al. 2019, "Automatic Classification of Defective Photovoltaic Module Cells in Electroluminescence
Images"): 2,624 grey pictures of solar cells, 300 x 300, each with the probability that it is defective.

Only monocrystalline cells that experts are sure of are taken (probability 0 or 1), reduced to 64 x 64. Of the good ones
every fifth is in the test split and the one after it in the validation split; of the defective ones, which are in no
training split, every other is in each. Cells of one module may be on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.card import DataSource
from training.data.fetch import PyPI

SOURCE = PyPI(
    name="elpv-dataset",
    version="1.0.0.post1",
    sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
    licence="CC-BY-NC-SA-4.0",
)
SIZE = 64
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class SolarCells:
    """Images uint8 [N, 64, 64] of good cells, and of defective ones."""

    train: Images
    validation: Images
    test: Images
    defective_validation: Images
    defective_test: Images


def load() -> SolarCells:
    """The monocrystalline cells, fetched on first use (91 MB)."""
    root = SOURCE.fetch() / "elpv_dataset" / "data"
    cells: dict[float, list[Path]] = {0.0: [], 1.0: []}
    for line in (root / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        if kind == "mono" and float(probability) in cells:
            cells[float(probability)].append(root / name)
    return split(_read(cells[0.0]), _read(cells[1.0]))


def load_sliver(path: Path) -> SolarCells:
    """A few made-up cells from a committed `.npz` (`good`, `defective`)."""
    with np.load(path) as file:
        return split(file["good"], file["defective"])


def split(good: Images, defective: Images) -> SolarCells:
    """The fixed split of cells in the order of the data set."""
    fifth = np.arange(len(good)) % 5
    return SolarCells(good[fifth > 1], good[fifth == 1], good[fifth == 0], defective[1::2], defective[::2])


def card_entry(data: SolarCells) -> DataSource:
    """What a card says about this data."""
    validation = len(data.validation) + len(data.defective_validation)
    test = len(data.test) + len(data.defective_test)
    return SOURCE.card_entry(train=len(data.train), validation=validation, test=test)


def _read(paths: list[Path]) -> Images:
    pictures = (Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX) for path in paths)
    return np.stack([np.asarray(picture) for picture in pictures])
