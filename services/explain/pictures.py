"""Explanations as PNG pictures for people: maps with scales, bars, and labelled sheets."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from lectern.v1 import explain_pb2 as pb
from services.codecs.heat_maps import colours
from services.explain.attribution import Attribution
from services.explain.audio import AudioKind
from services.explain.subjects import ImageKind, Subject
from services.explain.texts import TextKind

SIDE = 256  # pixels of an enlarged image
CELL = 128  # of one in a sheet
PAD, LINE, SCALE_WIDTH = 10, 20, 14
INK, PALE, BLUE, ORANGE = "#1a1a1a", "#6b6b6b", "#2166ac", "#b35806"
GREY_SHARE = 0.25  # of the image that shows through its map
HIGHEST = 99.5  # percentile of |values| that has the strongest colour
BARS, BAR_HEIGHT, NAME_WIDTH = 12, 22, 220
BAND_HEIGHT, AUDIO_WIDTH = 3, 640  # pixels of a mel band; pixels that a clip is wide, at least
TEXT_WIDTH, TEXT_LINE, TEXT_SIZE = 640, 24, 14
STRONGEST = 0.7  # of a colour behind a word, so that it can be read
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
        return _png(_list(subject, found, name))
    image = _image(subject.kind)
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
    _scale(canvas, (3 * PAD + 2 * width, top), height, found)
    return _png(canvas)


def _scale(canvas: Image.Image, corner: tuple[int, int], height: int, found: Attribution) -> None:
    """The colours of a map with their values."""
    draw, (left, top), (lowest, highest) = ImageDraw.Draw(canvas), corner, _range(found)
    levels = np.linspace(1, -1 if found.signed else 0, height, dtype=np.float32)
    scale = Image.fromarray(np.repeat(colours(levels, two_sided=found.signed)[:, None], SCALE_WIDTH, 1))
    canvas.paste(scale, corner)
    ticks = [(1.0, highest), (0.0, 0.0 if found.signed else lowest), *([(-1.0, lowest)] if found.signed else [])]
    for level, value in ticks:
        share = (1 - level) / 2 if found.signed else 1 - level
        place = top + round(share * (height - 1))
        place = min(max(place, top + 6), top + height - 7)
        draw.text((left + SCALE_WIDTH + 5, place), f"{value:.2g}", INK, _font(12), "lm")


def comparison(subject: Subject, rows: Sequence[Row]) -> bytes:
    """A sheet: a column for each method."""
    if not isinstance(subject.kind, ImageKind):
        return _png(_stacked([_list(subject, row.found, row.name, row.figures) for row in rows]))
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


def _list(subject: Subject, found: Attribution, name: str, figures: Sequence[str] = ()) -> Image.Image:
    """What is no image, under a line that says the answer and the method."""
    if isinstance(subject.kind, TextKind):
        return _coloured_words(subject, subject.kind, found, name, figures)
    if isinstance(subject.kind, AudioKind):
        return _spectrogram(subject, subject.kind, found, name, figures)
    return _bars(subject, found, name, figures)


def _coloured_words(
    subject: Subject, kind: TextKind, found: Attribution, name: str, figures: Sequence[str]
) -> Image.Image:
    """The text with what each word contributes behind it, and an explained answer underlined."""
    highest = max(float(np.abs(found.values).max()), 1e-12)
    font = _font(TEXT_SIZE)
    places, lines = _wrapped(kind, font)
    height = 2 * LINE + lines * TEXT_LINE + 16 * len(figures) + 3 * PAD
    canvas = Image.new("RGB", (TEXT_WIDTH, height), "white")
    draw = ImageDraw.Draw(canvas)
    title = f"{_said(subject)}: {name.replace('_', ' ')}"
    draw.text((PAD, PAD // 2), title, INK, _font(13))
    for word, value, (left, line) in zip(kind.words, found.values.tolist(), places, strict=True):
        top, width = PAD + LINE + line * TEXT_LINE, font.getlength(_shown(word))
        draw.rectangle((left, top, left + width, top + TEXT_LINE - 4), _tint(value / highest))
    for word, (left, line) in zip(kind.words, places, strict=True):
        top, width = PAD + LINE + line * TEXT_LINE, font.getlength(_shown(word))
        draw.text((left, top + TEXT_LINE / 2 - 2), _shown(word), INK, font, "lm")
        start, end = kind.answer or (0, 0)
        if not word.in_question and start <= word.start and word.end <= end:
            draw.line([(left, top + TEXT_LINE - 3), (left + width, top + TEXT_LINE - 3)], INK, 2)
    top = 2 * PAD + LINE + lines * TEXT_LINE
    for i, level in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0) if found.signed else (0.0, 0.5, 1.0)):
        left = PAD + i * 80
        draw.rectangle((left, top, left + 14, top + 14), _tint(level), PALE)
        draw.text((left + 20, top + 7), f"{level * highest:+.2g}" if level else "0", PALE, _font(11), "lm")
    for i, line_ in enumerate(figures):
        draw.text((PAD, height - PAD - 16 * (len(figures) - i)), line_, INK, _font(11))
    return canvas


def _spectrogram(
    subject: Subject, kind: AudioKind, found: Attribution, name: str, figures: Sequence[str]
) -> Image.Image:
    """Energies over time, low bands below, above what each contributes; the explained frames are marked."""
    frames, bands = kind.x.shape
    wide, high = max(1, AUDIO_WIDTH // frames), BAND_HEIGHT
    width, height = frames * wide, bands * high
    energies = kind.x.T[::-1, :, None]
    grey = (255 * (energies - energies.min()) / max(float(np.ptp(energies)), 1e-6)).astype(np.uint8)
    turned = Attribution(found.values.T[::-1, :, None], found.signed)
    size = width + 3 * PAD + SCALE_WIDTH + 60, 2 * height + 3 * LINE + 3 * PAD + 16 * len(figures)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    title = f"{_said(subject)}, {kind.start:.2f} to {kind.end:.2f} s: {name.replace('_', ' ')}"
    draw.text((PAD, PAD // 2), title, INK, _font(13))
    top, below = PAD + LINE, PAD + LINE + height + 4
    for place, picture in ((top, _colour(grey)), (below, _map(grey, turned))):
        canvas.paste(Image.fromarray(picture.repeat(high, 0).repeat(wide, 1)), (PAD, place))
    left, right = (PAD + round(at / kind.frame_seconds * wide) for at in (kind.start, kind.end))
    draw.line([(left, below + height + 2), (right, below + height + 2)], INK, 3)
    for second in np.arange(0, frames * kind.frame_seconds, 0.5 if frames < 400 else 1.0):
        place = PAD + round(second / kind.frame_seconds * wide)
        draw.text((place, below + height + 6), f"{second:g} s", PALE, _font(11), "la" if place == PAD else "ma")
    _scale(canvas, (width + 2 * PAD, below), height, turned)
    for i, line in enumerate(figures):
        draw.text((PAD, canvas.height - PAD - 16 * (len(figures) - i)), line, INK, _font(11))
    return canvas


def _wrapped(kind: TextKind, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[list[tuple[float, int]], int]:
    """Where each word begins: pixels from the left, and line; and how many lines there are."""
    places: list[tuple[float, int]] = []
    left, line, before = float(PAD), 0, None
    for word in kind.words:
        text = kind.question if word.in_question else kind.text
        if before is not None and before.in_question != word.in_question:
            left, line = PAD, line + 1
        elif before is not None:
            left += font.getlength(" ") * 1.5 * (before.end < word.start)
            if "\n\n" in text[before.end : word.start]:  # single breaks are where lines ended elsewhere
                left, line = PAD, line + 2
        width = font.getlength(_shown(word))
        if left > PAD and left + width > TEXT_WIDTH - PAD:
            left, line = PAD, line + 1
        places.append((left, line))
        left, before = left + width, word
    return places, line + 1


def _shown(word: pb.ExplainedWord) -> str:
    """Its letters without accents, which the font that comes with Pillow lacks."""
    return "".join(c for c in unicodedata.normalize("NFKD", word.text) if not unicodedata.combining(c))


def _tint(level: float) -> tuple[int, ...]:
    """White for 0, towards orange for 1 and blue for -1."""
    red, green, blue = ImageColor.getrgb(ORANGE if level > 0 else BLUE)[:3]
    return tuple(round(255 + STRONGEST * abs(level) * (channel - 255)) for channel in (red, green, blue))


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
