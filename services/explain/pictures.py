"""Explanations as PNG pictures for people: maps with scales, bars, and labelled sheets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lectern.v1 import explain_pb2 as pb
from services.codecs.heat_maps import colours
from services.explain.attribution import Attribution
from services.explain.subjects import ImageKind, Subject

SIDE = 256  # pixels of an enlarged image
CELL = 128  # of one in a sheet
PAD, LINE, SCALE_WIDTH = 10, 20, 14
INK, PALE, BLUE, ORANGE = "#1a1a1a", "#6b6b6b", "#2166ac", "#b35806"
GREY_SHARE = 0.25  # of the image that shows through its map
HIGHEST = 99.5  # percentile of |values| that has the strongest colour
BARS, BAR_HEIGHT, NAME_WIDTH = 12, 22, 220
CHART = (380, 260)


@dataclass(frozen=True)
class Row:
    """One line of a comparison: what it is, its map, the map of random weights, and figures below."""

    name: str
    found: Attribution
    by_random_weights: Attribution | None
    figures: Sequence[str]


def explanation(subject: Subject, found: Attribution, name: str) -> bytes:
    """One explanation with its answer."""
    if not isinstance(subject.kind, ImageKind):
        return _png(_bars(subject, found, name))
    image, (lowest, highest) = _image(subject.kind), _range(found)
    factor = _factor(image, SIDE)
    width, height = (factor * n for n in image.shape[1::-1])
    bar_space = SCALE_WIDTH + 70
    canvas = Image.new("RGB", (3 * PAD + 2 * width + bar_space, height + LINE + 2 * PAD), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((PAD, PAD // 2), _said(subject), INK, _font(13))
    draw.text((2 * PAD + width, PAD // 2), name.replace("_", " "), INK, _font(13))
    top = PAD + LINE
    canvas.paste(_enlarged(_colour(image), factor), (PAD, top))
    canvas.paste(_enlarged(_map(image, found), factor), (2 * PAD + width, top))
    left = 3 * PAD + 2 * width
    levels = np.linspace(1, -1 if found.signed else 0, height, dtype=np.float32)
    scale = Image.fromarray(np.repeat(colours(levels, two_sided=found.signed)[:, None], SCALE_WIDTH, 1))
    canvas.paste(scale, (left, top))
    ticks = [(1.0, highest), (0.0, 0.0 if found.signed else lowest), *([(-1.0, lowest)] if found.signed else [])]
    for level, value in ticks:
        share = (1 - level) / 2 if found.signed else 1 - level
        place = top + round(share * (height - 1))
        place = min(max(place, top + 6), top + height - 7)
        draw.text((left + SCALE_WIDTH + 5, place), f"{value:.2g}", INK, _font(12), "lm")
    return _png(canvas)


def comparison(subject: Subject, rows: Sequence[Row]) -> bytes:
    """A sheet: a column for each method."""
    if not isinstance(subject.kind, ImageKind):
        return _png(_stacked([_bars(subject, row.found, row.name, row.figures) for row in rows]))
    image = _image(subject.kind)
    factor = _factor(image, CELL)
    width, height = (factor * n for n in image.shape[1::-1])
    lines = max(len(row.figures) for row in rows)
    across = -(-(len(rows) + 1) // -(-(len(rows) + 1) // 6))  # at most six side by side
    down = -(-(len(rows) + 1) // across)
    block = 2 * LINE + 2 * height + PAD + lines * 16 + 2 * PAD
    canvas = Image.new("RGB", (PAD + across * (width + PAD), PAD + down * block), "white")
    draw = ImageDraw.Draw(canvas)

    def corner(place: int) -> tuple[int, int]:
        return PAD + place % across * (width + PAD), PAD + place // across * block

    left, top = corner(0)
    _label(draw, (left, top), _said(subject), width)
    canvas.paste(_enlarged(_colour(image), factor), (left, top + LINE))
    draw.text((left, top + LINE + height + 4), "below each map: that of", PALE, _font(11))
    draw.text((left, top + LINE + height + 18), "random weights", PALE, _font(11))
    for place, row in enumerate(rows, start=1):
        left, top = corner(place)
        _label(draw, (left, top), row.name.replace("_", " "), width)
        for i, found in enumerate((row.found, row.by_random_weights)):
            if found is not None:
                picture = _enlarged(_map(image, found), factor)
                canvas.paste(picture, (left, top + LINE + i * (height + 4)))
        for i, line in enumerate(row.figures):
            draw.text((left, top + LINE + 2 * height + PAD + 16 * i), line, INK, _font(11))
    return _png(canvas)


def preferred(images: Sequence[pb.Preferred]) -> bytes:
    """Images with what they are of, and how strongly it answers."""
    pictures = [Image.open(io.BytesIO(entry.image)).convert("RGB") for entry in images]
    factor = _factor(np.asarray(pictures[0]), CELL)
    width, height = (factor * n for n in pictures[0].size)
    across = min(len(pictures), 5)
    block = 2 * LINE + height + PAD
    canvas = Image.new("RGB", (PAD + across * (width + PAD), PAD + -(-len(pictures) // across) * block), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (entry, picture) in enumerate(zip(images, pictures, strict=True)):
        left, top = PAD + place % across * (width + PAD), PAD + place // across * block
        _label(draw, (left, top), entry.label, width)
        canvas.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top + LINE))
        said = f"{entry.start:.2g} to {entry.end:.3g}"
        said += f", {entry.probability:.0%}" if entry.HasField("probability") else ""
        draw.text((left, top + LINE + height + 2), said, PALE, _font(11))
    return _png(canvas)


def probes(found: Sequence[pb.Probe]) -> bytes:
    """A chart for each property: accuracy by layer, with chance as a dashed line."""
    return _png(_side_by_side([_chart([p for p in found if p.property == name]) for name in _unique(found)]))


def _chart(found: Sequence[pb.Probe]) -> Image.Image:
    width, height = CHART
    canvas = Image.new("RGB", CHART, "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((PAD, PAD // 2), f"{found[0].property}: what a linear classifier tells", INK, _font(13))
    left, right, top, bottom = 44, width - 16, 40, height - 34

    def place(accuracy: float) -> float:
        return bottom - accuracy * (bottom - top)

    for level in (0.0, 0.5, 1.0):
        draw.line([(left, place(level)), (right, place(level))], "#dddddd")
        draw.text((left - 6, place(level)), f"{level:.0%}", PALE, _font(11), "rm")
    for x in range(left, right, 8):
        draw.line([(x, place(found[0].chance)), (x + 4, place(found[0].chance))], PALE)
    draw.text((right, place(found[0].chance) + 3), "chance", PALE, _font(11), "ra")
    step = (right - left) / len(found)
    points = [(left + (i + 0.5) * step, place(probe.accuracy)) for i, probe in enumerate(found)]
    draw.line(points, BLUE, 2)
    for (across, down), probe in zip(points, found, strict=True):
        draw.ellipse((across - 4, down - 4, across + 4, down + 4), BLUE)
        draw.text((across, down - 8), f"{probe.accuracy:.0%}", INK, _font(11), "ms")
        draw.text((across, bottom + 8), probe.layer, INK, _font(11), "ma")
    return canvas


def _bars(subject: Subject, found: Attribution, name: str, figures: Sequence[str] = ()) -> Image.Image:
    """The features that matter most, the longest bar first."""
    features = subject.model.card.preprocessing.features  # type: ignore[union-attr]  # rows have them
    order = np.argsort(-np.abs(found.values), kind="stable")[:BARS]
    highest = max(float(np.abs(found.values).max()), 1e-12)
    width, middle = 640, NAME_WIDTH + 180 if found.signed else NAME_WIDTH + PAD
    space = width - middle - 70 if found.signed else width - middle - 80
    space = min(space, middle - NAME_WIDTH) if found.signed else space
    height = 2 * LINE + len(order) * BAR_HEIGHT + 16 * len(figures) + 2 * PAD
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((PAD, PAD // 2), f"{_said(subject)}: {name.replace('_', ' ')}", INK, _font(13))
    for i, index in enumerate(order):
        value, top = float(found.values[index]), PAD + LINE + i * BAR_HEIGHT
        centre = top + BAR_HEIGHT / 2
        said = f"{features[index]} = {subject.kind.x[index]:.4g}"
        draw.text((NAME_WIDTH, centre), said, INK, _font(12), "rm")
        end = middle + value / highest * (space - 50)
        colour, aside, anchor = (ORANGE, 5, "lm") if value > 0 else (BLUE, -5, "rm")
        draw.rectangle((min(middle, end), top + 4, max(middle, end), top + BAR_HEIGHT - 4), colour)
        draw.text((end + aside, centre), f"{value:+.3g}", PALE, _font(11), anchor)
    draw.line([(middle, PAD + LINE), (middle, PAD + LINE + len(order) * BAR_HEIGHT)], INK)
    for i, line in enumerate(figures):
        draw.text((PAD, height - PAD - 16 * (len(figures) - i)), line, INK, _font(11))
    return canvas


def _said(subject: Subject) -> str:
    """The answer in a few words."""
    label, value = subject.labels[subject.target], float(subject.outputs[subject.target])
    if not subject.classifies:
        return f"{label} {value:.4g}"
    return f"{label} {subject.probability:.0%}"


def _image(kind: ImageKind) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = kind.forward(kind.x[None])[0]
    return image


def _colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(image, 3, 2) if image.shape[2] == 1 else image


def _map(image: NDArray[np.uint8], found: Attribution) -> NDArray[np.uint8]:
    """The colours of values, with something of the image in grey so that one sees where they are."""
    grey, (lowest, highest) = image.mean(2, keepdims=True), _range(found)
    levels = found.map / highest if found.signed else (found.map - lowest) / (highest - lowest)
    painted = colours(levels.astype(np.float32), two_sided=found.signed)
    return np.asarray((1 - GREY_SHARE) * painted + GREY_SHARE * grey, np.uint8)


def _range(found: Attribution) -> tuple[float, float]:
    """Values with the darkest and the lightest colour; opposite ones if the sign means something."""
    highest = float(np.percentile(np.abs(found.map), HIGHEST))
    lowest = -highest if found.signed else float(found.map.min())
    return lowest, max(highest, lowest + 1e-12)


def _factor(image: NDArray[np.uint8], side: int) -> int:
    height, width = image.shape[:2]
    return max(1, side // max(int(height), int(width)))


def _enlarged(image: NDArray[np.uint8], factor: int) -> Image.Image:
    return Image.fromarray(image.repeat(factor, 0).repeat(factor, 1))


def _label(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """Text in as large a size as fits."""
    size = next((s for s in (13, 12, 11, 10, 9) if _font(s).getlength(text) <= width), 8)
    draw.text(place, text, INK, _font(size))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _unique(found: Sequence[pb.Probe]) -> list[str]:
    return list(dict.fromkeys(probe.property for probe in found))


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (0, sum(p.height for p in pictures[:i])))
    return canvas


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (sum(p.width for p in pictures[:i]), 0))
    return canvas


def _png(canvas: Image.Image) -> bytes:
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()
