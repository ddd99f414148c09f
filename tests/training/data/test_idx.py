"""IDX files: read whole, or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from training.data.idx import read_idx, read_split

pytestmark = pytest.mark.unit

PIXELS = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_and_labels_of_a_split(tmp_path: Path, suffix: str) -> None:
    for name, array in (("images-idx3", PIXELS), ("labels-idx1", np.array([7, 3], np.uint8))):
        content = gzip.compress(idx(array)) if suffix else idx(array)
        (tmp_path / f"t10k-{name}-ubyte{suffix}").write_bytes(content)
    split = read_split(tmp_path, "t10k", suffix)
    np.testing.assert_array_equal(split.images, PIXELS)
    assert split.labels.tolist() == [7, 3]
    assert split[np.array([1])].labels.tolist() == [3]


@pytest.mark.parametrize("content", [b"", b"plain text", idx(PIXELS)[:9], idx(PIXELS)[:-1], idx(PIXELS) + b"\0"])
def test_what_is_not_a_whole_idx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"IDX|reshape"):
        read_idx(tmp_path / "file")
