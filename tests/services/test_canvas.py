"""Text on pictures: as Pillow draws it, though each piece is drawn once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw

from services.codecs.canvas import INK, font, write

pytestmark = pytest.mark.unit

PLACE, SIZE = (150, 40), 13


def drawn(text: str, anchor: str, *, by_pillow: bool) -> Image.Image:
    canvas = Image.new("RGB", (300, 80), "white")
    draw = ImageDraw.Draw(canvas)
    if by_pillow:
        draw.text(PLACE, text, INK, font(SIZE), anchor)
    else:
        write(draw, PLACE, text, INK, SIZE, anchor)
    return canvas


@pytest.mark.parametrize("anchor", [across + down for across in "lmr" for down in "ams"])
@pytest.mark.parametrize("text", ["fjord", "tested_positive = -12.75 %", "a rather long label of more than a piece"])
def test_text_stands_where_pillow_puts_it(text: str, anchor: str) -> None:
    own, pillows = (ImageChops.invert(drawn(text, anchor, by_pillow=p).convert("L")) for p in (False, True))
    assert pillows.getbbox() == pytest.approx(own.getbbox(), abs=1)
    assert np.asarray(own, int).sum() == pytest.approx(np.asarray(pillows, int).sum(), rel=0.05)


def test_a_word_has_the_pixels_of_pillows() -> None:
    assert drawn("fjord", "la", by_pillow=False) == drawn("fjord", "la", by_pillow=True)


@pytest.mark.parametrize("text", ["", "\n", "two\nlines"])
def test_text_is_one_line_or_nothing(text: str) -> None:
    assert drawn(text, "lm", by_pillow=False) == drawn(text.replace("\n", ""), "lm", by_pillow=False)


def test_text_beyond_the_canvas_is_cut() -> None:
    canvas = Image.new("RGB", (20, 10), "white")
    write(ImageDraw.Draw(canvas), (-5, -4), "wide text", INK, SIZE)
    assert canvas.getextrema() != ((255, 255),) * 3
