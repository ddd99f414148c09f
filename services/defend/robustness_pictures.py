"""Attacks and tables of robustness as PNG pictures for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lectern.v1 import defend_pb2 as pb
from services.codecs.canvas import BLUE, INK, ORANGE, PALE, coloured, font, label, png, stacked, write
from services.codecs.heat_maps import colours
from services.defend.methods.pixels import Images
from services.defend.robustness import Measured

MOST = 8  # attacked images in a picture
SIDE = 96  # pixels of an enlarged image
PAD, LINE = 10, 18
NAME_WIDTH = 190
GOOD, BAD = BLUE, ORANGE
LARGEST = 12  # pixels of a label's letters


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
            (images[i], _prediction(result.before), INK),
            (grey, f"up to {round(255 * result.linf)} of 255", PALE),
            (attacked[i], _prediction(result.after), BAD if result.success else GOOD),
        )
        for j, (pixels, caption, colour) in enumerate(rows):
            top = PAD + j * (block + PAD)
            canvas.paste(_enlarged(pixels), (left, top))
            label(draw, (left, top + SIDE + 2), caption, SIDE, LARGEST, colour)
    return png(canvas)


def table(measured: Sequence[Measured], *, images: bool) -> bytes:
    """A table for each model: attacks by defences, with accuracy as colour, and with `images` the first image."""
    models = list(dict.fromkeys(m.cell.classifier.card.name for m in measured))
    parts = [_table([m for m in measured if m.cell.classifier.card.name == model], images) for model in models]
    return png(stacked(parts))


def _table(measured: Sequence[Measured], images: bool) -> Image.Image:
    across = sum(m.cell.row == measured[0].cell.row for m in measured)
    rows = [measured[start : start + across] for start in range(0, len(measured), across)]
    cell_height = (SIDE + 2 * LINE if images else 2 * LINE) + PAD
    top = PAD + 2 * LINE
    canvas = Image.new("RGB", (NAME_WIDTH + across * (SIDE + PAD) + PAD, top + len(rows) * cell_height + PAD), "white")
    draw = ImageDraw.Draw(canvas)
    write(draw, (PAD, PAD), f"{measured[0].cell.classifier.card.name}", INK, 13)
    write(draw, (PAD, PAD + LINE), f"accuracy on {len(measured[0].attacked)} images", PALE, 11)
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
                place, colour = (left, down + LINE + SIDE + 2), GOOD if one.right else BAD
                label(draw, place, _prediction(one.prediction), SIDE, LARGEST, colour)
    return canvas


def _accuracy(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], accuracy: float) -> None:
    red, green, blue = colours(np.array(accuracy, np.float32)).tolist()
    draw.rectangle(box, (red, green, blue))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    write(draw, middle, f"{accuracy:.0%}", "white" if accuracy < 0.5 else INK, 12, "mm")


def _prediction(predicted: pb.PredictedClass) -> str:
    return f"{predicted.label} {predicted.probability:.0%}"


def _enlarged(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(coloured(pixels)).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _wrapped(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """Text in lines of that width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font(11).getlength(longer) <= width else [*lines, word]
    draw.multiline_text(place, "\n".join(line for line in lines if line), INK, font(11), spacing=2)
