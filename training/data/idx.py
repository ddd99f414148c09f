"""The IDX format of MNIST and the sets shaped like it: big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Grey images uint8 [N, 28, 28] and labels int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Split:
        return Split(self.images[index], self.labels[index])


def read_split(directory: Path, prefix: str, suffix: str = "") -> Split:
    """The official split `prefix` (`train` or `t10k`) from its two files in `directory`; suffix `.gz` if compressed."""
    images = read_idx(directory / f"{prefix}-images-idx3-ubyte{suffix}")
    labels = read_idx(directory / f"{prefix}-labels-idx1-ubyte{suffix}")
    return Split(images, labels.astype(np.int64))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in one IDX file (http://yann.lecun.com/exdb/mnist), `.gz` or plain.

    Raises:
        ValueError: it is not such a file, or has another length than its header says.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path.name} is not an IDX file of unsigned bytes")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
