"""Fashion-MNIST (Xiao et al. 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms"): 70,000 grey pictures of clothes, 28 x 28, ten classes of equal size.

The official 10,000 test images are the test split; the last 10,000 training images are the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.fetch import Debian
from training.data.idx import Split, read_split

SOURCE = Debian(
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    licence="MIT",
)
LABELS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
VALIDATION = 10_000


@dataclass(frozen=True)
class FashionMnist:
    train: Split
    validation: Split
    test: Split


def load() -> FashionMnist:
    """The whole data set, fetched on first use (31 MB)."""
    root = SOURCE.fetch() / "usr" / "share" / "datasets" / "fashion-mnist"
    train, test = read_split(root, "train", ".gz"), read_split(root, "t10k", ".gz")
    return FashionMnist(train=train[:-VALIDATION], validation=train[-VALIDATION:], test=test)


def load_sliver(path: Path) -> FashionMnist:
    """A few hundred real images from a committed `.npz` (`images`, `labels`), split 60/20/20 in order."""
    with np.load(path) as file:
        everything = Split(file["images"], file["labels"].astype(np.int64))
    first, second = int(len(everything) * 0.6), int(len(everything) * 0.8)
    return FashionMnist(train=everything[:first], validation=everything[first:second], test=everything[second:])
