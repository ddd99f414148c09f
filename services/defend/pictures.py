"""Attacks and tables of robustness as PNG pictures for people."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lectern.v1 import defend_pb2 as pb
from services.codecs.heat_maps import colours
from services.defend.classifier import Images
from services.defend.robustness import Measured

MOST = 8  # attacked images in a picture
SIDE = 96  # pixels of an enlarged image
PAD, LINE = 10, 18
NAME_WIDTH = 190
INK, PALE, GOOD, BAD = "#1a1a1a", "#6b6b6b", "#2166ac", "#b35806"


def attacks(images: Images, attacked: Images, results: Sequence[pb.AttackedImage]) -> bytes:
    """A column for each image: itself, the change with its largest value at full strength, and what came out."""
    count = min(MOST, len(images))
    block = SIDE + LINE
    canvas = Image.new("RGB", (PAD + count * (SIDE + PAD), 3 * (block + PAD) + PAD), "white")
    draw = ImageDraw.Draw(canvas)
    for i in range(count):
        left = PAD + i * (SIDE + PAD)
        change = attacked[i].astype(np.float32) - images[i]
        grey = (127.5 + 127.5 * change / max(float(np.abs(change).max()), 1.0)).round().astype(np.uint8)
        result = results[i]
        rows = (
            (images[i], _said(result.before), INK),
            (grey, f"up to {round(255 * result.linf)} of 255", PALE),
            (attacked[i], _said(result.after), BAD if result.success else GOOD),
        )
        for j, (pixels, said, colour) in enumerate(rows):
            top = PAD + j * (block + PAD)
            canvas.paste(_enlarged(pixels), (left, top))
            _label(draw, (left, top + SIDE + 2), said, SIDE, colour)
    return _png(canvas)


def table(measured: Sequence[Measured], *, images: bool) -> bytes:
    """A table for each model: attacks by defences, with accuracy as colour, and with `images` the first image."""
    models = list(dict.fromkeys(m.cell.classifier.card.name for m in measured))
    parts = [_table([m for m in measured if m.cell.classifier.card.name == model], images) for model in models]
    canvas = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    for i, part in enumerate(parts):
        canvas.paste(part, (0, sum(p.height for p in parts[:i])))
    return _png(canvas)


def _table(measured: Sequence[Measured], images: bool) -> Image.Image:
    across = sum(m.cell.row == measured[0].cell.row for m in measured)
    rows = [measured[start : start + across] for start in range(0, len(measured), across)]
    cell_height = (SIDE + 2 * LINE if images else 2 * LINE) + PAD
    top = PAD + 2 * LINE
    canvas = Image.new("RGB", (NAME_WIDTH + across * (SIDE + PAD) + PAD, top + len(rows) * cell_height + PAD), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((PAD, PAD), f"{measured[0].cell.classifier.card.name}", INK, _font(13))
    draw.text((PAD, PAD + LINE), f"accuracy on {len(measured[0].attacked)} images", PALE, _font(11))
    for i, one in enumerate(rows[0]):
        _wrapped(draw, (NAME_WIDTH + i * (SIDE + PAD), PAD), one.cell.chain.words, SIDE)
    for j, row in enumerate(rows):
        down = top + j * cell_height
        _wrapped(draw, (PAD, down), row[0].cell.words, NAME_WIDTH - 2 * PAD)
        for i, one in enumerate(row):
            left = NAME_WIDTH + i * (SIDE + PAD)
            _accuracy(draw, (left, down, left + SIDE, down + LINE), one.accuracy)
            if images:
                canvas.paste(_enlarged(one.first), (left, down + LINE))
                said = (left, down + LINE + SIDE + 2)
                _label(draw, said, _said(one.said), SIDE, GOOD if one.right else BAD)
    return canvas


def _accuracy(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], accuracy: float) -> None:
    red, green, blue = colours(np.array(accuracy, np.float32)).tolist()
    draw.rectangle(box, (red, green, blue))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    draw.text(middle, f"{accuracy:.0%}", "white" if accuracy < 0.5 else INK, _font(12), "mm")


def _said(predicted: pb.PredictedClass) -> str:
    return f"{predicted.label} {predicted.probability:.0%}"


def _enlarged(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels)
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _label(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, colour: str) -> None:
    """Text in as large a size as fits."""
    size = next((s for s in (12, 11, 10, 9) if _font(s).getlength(text) <= width), 8)
    draw.text(place, text, colour, _font(size))


def _wrapped(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """Text in lines of that width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if _font(11).getlength(longer) <= width else [*lines, word]
    draw.multiline_text(place, "\n".join(line for line in lines if line), INK, _font(11), spacing=2)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _png(canvas: Image.Image) -> bytes:
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()
