"""Draws text and pixels on canvases and encodes them as PNG, for the pictures of several capabilities."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from services.codecs.png import encode_png

INK, PALE, BLUE, ORANGE = "#1a1a1a", "#6b6b6b", "#2166ac", "#b35806"
SMALLEST = 8  # pixels of a letter
OVERHANG = 3  # pixels by which letters reach beyond their place in a line
# Numbers differ from picture to picture and are put together from digits; most other text comes again.
PIECES = re.compile(r"[\d.,%+-]|[^\d.,%+\n-]{1,32}")
SHARES = {"l": 0.0, "m": 0.5, "r": 1.0}


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font, `size` pixels high."""
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: str, size: int, anchor: str = "la"
) -> None:
    """As `ImageDraw.text` in `font(size)`, at a third of its cost: each piece of text is drawn once and then copied.
    Breaks of lines are left out.

    Args:
        anchor: horizontally `l`, `m` or `r`; vertically `a` (ascender), `m` or `s` (baseline).
    """
    pieces, ends = [_piece(piece, size) for piece in PIECES.findall(text)], [0.0]
    for _, length in pieces:
        ends.append(ends[-1] + length)
    ascent, descent = font(size).getmetrics()
    line = np.zeros((ascent + descent, round(ends[-1]) + 2 * OVERHANG + 1), np.uint8)
    for (mask, _), start in zip(pieces, ends, strict=False):
        part = line[:, round(start) : round(start) + mask.shape[1]]
        np.maximum(part, mask[:, : part.shape[1]], out=part)
    left = place[0] - SHARES[anchor[0]] * ends[-1] - OVERHANG
    top = place[1] - {"a": 0.0, "m": (ascent + descent) / 2, "s": float(ascent)}[anchor[1]]
    draw.bitmap((round(left), round(top)), Image.fromarray(line), colour)


@lru_cache(maxsize=2048)
def _piece(text: str, size: int) -> tuple[NDArray[np.uint8], float]:
    """How much of each pixel the letters cover, `[height of a line, OVERHANG + width + OVERHANG]`, and their length."""
    letters = font(size)
    length = letters.getlength(text)
    ascent, descent = letters.getmetrics()
    mask = Image.new("L", (round(length) + 2 * OVERHANG, ascent + descent))
    ImageDraw.Draw(mask).text((OVERHANG, ascent), text, 255, letters, "ls")
    return np.asarray(mask), length


def label(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, largest: int, colour: str = INK
) -> None:
    """Draw text in the largest size that fits into `width` pixels, up to `largest`."""
    fits = (size for size in range(largest, SMALLEST, -1) if font(size).getlength(text) <= width)
    write(draw, place, text, colour, next(fits, SMALLEST))


def coloured(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image `[height, width, 1 or 3]` with three channels."""
    return np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels


def stacked(canvases: Sequence[Image.Image]) -> Image.Image:
    """Canvases one below the other."""
    canvas = Image.new("RGB", (max(c.width for c in canvases), sum(c.height for c in canvases)), "white")
    for i, part in enumerate(canvases):
        canvas.paste(part, (0, sum(c.height for c in canvases[:i])))
    return canvas


def side_by_side(canvases: Sequence[Image.Image]) -> Image.Image:
    """Canvases side by side, from left to right."""
    canvas = Image.new("RGB", (sum(c.width for c in canvases), max(c.height for c in canvases)), "white")
    for i, part in enumerate(canvases):
        canvas.paste(part, (sum(c.width for c in canvases[:i]), 0))
    return canvas


def png(canvas: Image.Image) -> bytes:
    """The canvas as a PNG file."""
    return encode_png(np.asarray(canvas))
