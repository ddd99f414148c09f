"""Making and redrawing images by the clients and the command line."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

import lectern
import lectern.aio
from tests.conftest import ROOT, SLIVERS, encode
from tests.lectern.test_cli import invoke, refused
from tests.waiting import WAIT


@pytest.fixture
def client(server: Any) -> Iterator[lectern.Client]:
    with lectern.Client(server.target, timeout=WAIT) as client:
        yield client


@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handwritten digit as a file."""
    with np.load(SLIVERS / "style_translator.npz") as file:
        path = tmp_path_factory.mktemp("digit") / "seven.png"
        path.write_bytes(encode(file["handwritten_images"][0]))
    return path


def size(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image), formats=["PNG"]).size


def test_images_of_one_seed_are_the_same_for_both_clients(server: Any, client: lectern.Client) -> None:
    async def generated() -> list[bytes]:
        async with lectern.aio.Client(server.target, timeout=WAIT) as remote:
            return [response.image async for response in remote.generate_images(7, 10)]

    images = [response.image for response in client.generate_images(7, 10)]
    assert len(set(images)) == 10
    assert asyncio.run(generated()) == images
    assert next(client.generate_images(9)).image == images[2]


def test_paths_labels_truncation_and_sheets_reach_the_server(client: lectern.Client) -> None:
    ends = [next(client.generate_images(seed)).image for seed in (1, 4)]
    path = list(client.generate_images(1, to_seed=4, steps=5))
    assert [path[0].image, path[-1].image, len(path)] == [*ends, 5]
    assert len(list(client.generate_images(1, to_seed=4))) == 8
    (dress,) = client.generate_images(1, label="dress", model="garment_generator")
    assert (dress.label, size(dress.image)) == ("dress", (28, 28))
    assert next(client.generate_images(1, truncation=0.5)).image != ends[0]
    (sheet,) = client.generate_images(1, 5, contact_sheet=True)
    assert size(sheet.image) == (192, 128)


def test_two_ways_to_say_what_to_make_are_refused_before_the_call(client: lectern.Client) -> None:
    with pytest.raises(ValueError, match="count is of independent images"):
        client.generate_images(1, 5, to_seed=3)
    with pytest.raises(ValueError, match="give to_seed"):
        client.generate_images(1, steps=3)


def test_a_refused_stream_raises_as_every_call_does(client: lectern.Client) -> None:
    with pytest.raises(lectern.LecternError) as caught:
        next(client.generate_images(1, 65))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.violations == (("count", "is 65; it must be 1 to 64"),)


def test_an_image_is_redrawn_for_both_clients(server: Any, client: lectern.Client, digit: Path) -> None:
    async def redrawn() -> bytes:
        async with lectern.aio.Client(server.target, timeout=WAIT) as remote:
            return (await remote.transform_image(digit, "printed")).image

    image = client.transform_image(digit.read_bytes(), "printed").image
    assert size(image) == (28, 28)
    assert asyncio.run(redrawn()) == image


def test_generate_writes_a_sheet_a_file_each_or_to_a_pipe(server: Any, client: lectern.Client, tmp_path: Path) -> None:
    sheet, directory = tmp_path / "sheet.png", tmp_path / "faces"
    done = invoke("generate", "images", "--seed", 7, "--count", 4, "--out", sheet, target=server.target)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", f"wrote {sheet}\n")
    assert size(sheet.read_bytes()) == (256, 256)  # twice as large, to be seen
    piped = invoke("generate", "images", "--seed", 7, "--count", 4, target=server.target)
    assert piped.stdout == sheet.read_bytes()
    invoke("generate", "images", "--seed", 7, "--count", 4, "--scale", 1, "--out", directory, target=server.target)
    assert sorted(p.name for p in directory.iterdir()) == [f"face_generator-{seed}.png" for seed in (10, 7, 8, 9)]
    assert (directory / "face_generator-9.png").read_bytes() == next(client.generate_images(9)).image


def test_generate_walks_between_seeds_and_draws_labels(server: Any, client: lectern.Client, tmp_path: Path) -> None:
    options = ("--model", "garment_generator", "--label", "bag", "--seed", 3, "--to-seed", 5, "--count", 3)
    invoke("generate", "images", *options, "--scale", 1, "--out", tmp_path / "walk", target=server.target)
    frames = sorted((tmp_path / "walk").iterdir())
    assert [p.name for p in frames] == [f"garment_generator-3-5-0{i}.png" for i in range(3)]
    for frame, seed in ((frames[0], 3), (frames[-1], 5)):
        (alone,) = client.generate_images(seed, label="bag", model="garment_generator")
        assert frame.read_bytes() == alone.image


def test_on_a_terminal_generate_names_the_file_after_model_and_seed(server: Any, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lectern", "generate", "images", "--seed", "7", "--target", server.target]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, stdout=theirs, cwd=tmp_path, env=environment, timeout=WAIT, check=True)
    os.close(ours)
    os.close(theirs)
    assert size((tmp_path / "face_generator-7.png").read_bytes()) == (256, 256)


def test_transform_redraws_a_file_or_standard_input(
    server: Any, client: lectern.Client, digit: Path, tmp_path: Path
) -> None:
    expected = {style: client.transform_image(digit, style).image for style in ("printed", "handwritten")}
    out = tmp_path / "drawn.png"
    invoke("transform", digit, "--style", "handwritten", "--scale", 1, "--out", out, target=server.target)
    assert out.read_bytes() == expected["handwritten"]
    assert invoke("transform", digit, "--scale", 1, target=server.target).stdout == expected["printed"]
    piped = invoke("transform", "-", "--scale", 1, stdin=digit.read_bytes(), target=server.target)
    assert piped.stdout == expected["printed"]


def test_errors_of_the_server_are_messages(server: Any, digit: Path, tmp_path: Path) -> None:
    refused(invoke("generate", "images", "--count", 65, target=server.target), 1, "count", "1 to 64")
    refused(invoke("generate", "images", "--truncation", "nan", target=server.target), 1, "truncation")
    refused(invoke("generate", "images", "--label", "hat", target=server.target), 1, "label")
    refused(invoke("transform", digit, "--style", "oil", target=server.target), 1, "style", "handwritten")
    refused(invoke("transform", tmp_path / "none.png", target=server.target), 2, "no such file")
    (file := tmp_path / "file").touch()
    refused(invoke("generate", "images", "--out", file / "x.png", target=server.target), 2, "x.png")
