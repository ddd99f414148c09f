"""Pictures that commands write can be seen, and a model sees the same in them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lectern.cli.pictures import READABLE, enlarged
from tests.conftest import ROOT, Server
from tests.lectern.test_cli import invoke, refused

EXAMPLES = ROOT / "docs" / "examples"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.unit
@pytest.mark.parametrize(
    ("shape", "scale", "expected"),
    [
        ((28, 28), 0, (224, 224)),
        ((32, 32, 3), 0, (224, 224)),
        ((64, 64, 3), 0, (256, 256)),
        ((10, 300), 0, (300, 10)),
        ((28, 28), 3, (84, 84)),
        ((300, 300), 2, (600, 600)),
    ],
)
def test_a_pixel_becomes_a_square(shape: tuple[int, ...], scale: int, expected: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(enlarged(png(pixels), scale))) as larger:
        assert larger.size == expected
        assert scale or max(larger.size) >= READABLE
        small = larger.resize(shape[1::-1], Image.Resampling.BOX)  # as models take pictures
    np.testing.assert_array_equal(np.asarray(small), pixels)


@pytest.mark.unit
def test_what_is_large_enough_or_wanted_as_it_is_stays_the_same_bytes() -> None:
    small, large = png(np.zeros((28, 28), np.uint8)), png(np.zeros((9, 224), np.uint8))
    assert enlarged(small, 1) is small
    assert enlarged(large, 0) is large


@pytest.mark.parametrize(
    ("command", "option", "small"),
    [
        (("detect-anomaly", EXAMPLES / "seven.png"), "--reconstruction", 28),
        (("defend", EXAMPLES / "cat.png", "--defence", "jpeg"), "--out", 32),
        (("transform", EXAMPLES / "digit.png"), "--out", 28),
        (("generate", "images", "--count", "1", "--seed", "7"), "--out", 64),
    ],
)
def test_commands_write_pictures_that_can_be_seen(
    server: Server, tmp_path: Path, command: tuple[object, ...], option: str, small: int
) -> None:
    for scale, side in (((), None), (("--scale", 1), small), (("--scale", 2), 2 * small)):
        path = tmp_path / f"{side}.png"
        done = invoke(*command, option, path, *scale, target=server.target)
        assert done.returncode == 0, done.stderr
        assert size(path) == ((side, side) if side else size(path))
        assert side or max(size(path)) >= READABLE


def test_a_model_sees_an_enlarged_picture_as_the_small_one(server: Server, tmp_path: Path) -> None:
    answers = []
    for scale in (0, 1):
        path = tmp_path / f"{scale}.png"
        invoke(
            "defend", EXAMPLES / "cat.png", "--defence", "jpeg", "--out", path, "--scale", scale, target=server.target
        )
        (result,) = json.loads(invoke("classify", path, "--json", target=server.target).stdout)["results"]
        answers.append(result["classes"])
    assert answers[0] == answers[1]


def test_a_scale_that_is_none() -> None:
    refused(invoke("transform", EXAMPLES / "digit.png", "--scale", 65), 2, "--scale")


def test_files_are_too_large_together_before_any_is_read(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for file in files:
        with file.open("wb") as hole:
            hole.truncate(2**23)  # of which nothing is on the disk
    (examples := tmp_path / "photos" / "cat").mkdir(parents=True)
    for file in files:
        (examples / file.name).symlink_to(file)
    for command in (("defend", *files), ("attack", *files), ("robustness", examples.parent)):
        refused(invoke(*command), 2, "the 5 files have 41,943,040 bytes together; the most is 32,505,856")
    support = ("classify-few-shot", "--support", examples.parent, EXAMPLES / "character.png")
    refused(invoke(*support), 2, "the 6 files have")
