"""PNG files that the services write, as Pillow reads them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from services.codecs.heat_maps import colours, heat_map
from services.codecs.png import encode_png


@pytest.mark.parametrize("shape", [(1, 1, 3), (32, 32, 3), (5, 300, 3), (28, 28, 1), (300, 2, 1)])
def test_every_pixel_comes_back(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
    picture = Image.open(io.BytesIO(encode_png(pixels)))
    picture.verify()
    picture = Image.open(io.BytesIO(encode_png(pixels)))
    assert picture.mode == ("RGB" if shape[2] == 3 else "L")
    np.testing.assert_array_equal(np.asarray(picture).reshape(shape), pixels)


def test_drawings_are_small() -> None:
    drawing = np.full((300, 600, 3), 255, np.uint8)
    drawing[40:200, 100:400] = (200, 30, 30)
    assert len(encode_png(drawing)) < 8_000 < drawing.nbytes / 60


def test_a_heat_map_has_the_colours_of_its_values() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    picture = Image.open(io.BytesIO(heat_map(values, 1)))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours(values))
