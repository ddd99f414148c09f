"""Explanations as PNG pictures for people: maps with scales, bars, and labelled sheets."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from artifacts.card import Probe
from lectern.v1 import explain_pb2 as pb
from services.codecs.canvas import BLUE, INK, ORANGE, PALE, coloured, font, label, png, side_by_side, stacked, write
from services.codecs.heat_maps import colours
from services.explain.attribution import Attribution
from services.explain.audio_input import AudioKind
from services.explain.comparison import Compared
from services.explain.image_input import ImageKind
from services.explain.row_input import RowKind
from services.explain.subject import Subject
from services.explain.text_input import TextKind

SIDE = 256  # pixels of an enlarged image
CELL = 128  # pixels of one in a sheet
PAD, LINE, SCALE_WIDTH = 10, 20, 14
GREY_SHARE = 0.25  # of the image that shows through its map
HIGHEST = 99.5  # percentile of |values| that has the strongest colour
BARS, BAR_HEIGHT, NAME_WIDTH = 12, 22, 220
BAND_HEIGHT, AUDIO_WIDTH = 3, 640  # pixels of a mel band; pixels that a clip is wide, at least
TEXT_WIDTH, TEXT_LINE, TEXT_SIZE = 640, 24, 14
STRONGEST = 0.7  # of a colour behind a word, so that it can be read
CHART = (380, 260)
LARGEST = 13  # pixels of a label's letters


def explanation(subject: Subject, attribution: Attribution, name: str) -> bytes:
    """One explanation with its answer."""
    if not isinstance(subject.kind, ImageKind):
        return png(_list(subject, attribution, name))
    image = subject.kind.image
    factor = _factor(image, SIDE)
    width, height = (factor * n for n in image.shape[1::-1])
    bar_space = SCALE_WIDTH + 70
    canvas = Image.new("RGB", (3 * PAD + 2 * width + bar_space, height + LINE + 2 * PAD), "white")
    draw = ImageDraw.Draw(canvas)
    write(draw, (PAD, PAD // 2), _answer(subject), INK, 13)
    write(draw, (2 * PAD + width, PAD // 2), name.replace("_", " "), INK, 13)
    top = PAD + LINE
    canvas.paste(_enlarged(coloured(image), factor), (PAD, top))
    canvas.paste(_enlarged(_map(image, attribution), factor), (2 * PAD + width, top))
    _scale(canvas, (3 * PAD + 2 * width, top), height, attribution)
    return png(canvas)


def _scale(canvas: Image.Image, corner: tuple[int, int], height: int, attribution: Attribution) -> None:
    """The colours of a map with their values."""
    draw, (left, top), (lowest, highest) = ImageDraw.Draw(canvas), corner, _range(attribution)
    levels = np.linspace(1, -1 if attribution.signed else 0, height, dtype=np.float32)
    scale = Image.fromarray(np.repeat(colours(levels, two_sided=attribution.signed)[:, None], SCALE_WIDTH, 1))
    canvas.paste(scale, corner)
    ticks = [
        (1.0, highest),
        (0.0, 0.0 if attribution.signed else lowest),
        *([(-1.0, lowest)] if attribution.signed else []),
    ]
    for level, value in ticks:
        share = (1 - level) / 2 if attribution.signed else 1 - level
        place = top + round(share * (height - 1))
        place = min(max(place, top + 6), top + height - 7)
        write(draw, (left + SCALE_WIDTH + 5, place), f"{value:.2g}", INK, 12, "lm")


def comparison(subject: Subject, rows: Sequence[Compared]) -> bytes:
    """A sheet: a column for each method."""
    if not isinstance(subject.kind, ImageKind):
        return png(stacked([_list(subject, row.attribution, row.name, row.figures) for row in rows]))
    image = subject.kind.image
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
    label(draw, (left, top), _answer(subject), width, LARGEST)
    canvas.paste(_enlarged(coloured(image), factor), (left, top + LINE))
    write(draw, (left, top + LINE + height + 4), "below each map: that of", PALE, 11)
    write(draw, (left, top + LINE + height + 18), "random weights", PALE, 11)
    for place, row in enumerate(rows, start=1):
        left, top = corner(place)
        label(draw, (left, top), row.name.replace("_", " "), width, LARGEST)
        for i, attribution in enumerate((row.attribution, row.by_random_weights)):
            if attribution is not None:
                picture = _enlarged(_map(image, attribution), factor)
                canvas.paste(picture, (left, top + LINE + i * (height + 4)))
        for i, line in enumerate(row.figures):
            write(draw, (left, top + LINE + 2 * height + PAD + 16 * i), line, INK, 11)
    return png(canvas)


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
        label(draw, (left, top), entry.label, width, LARGEST)
        canvas.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top + LINE))
        strength = f"{entry.start:.2g} to {entry.end:.3g}"
        strength += f", {entry.probability:.0%}" if entry.HasField("probability") else ""
        write(draw, (left, top + LINE + height + 2), strength, PALE, 11)
    return png(canvas)


@lru_cache(maxsize=16)
def probes(measured: tuple[Probe, ...]) -> bytes:
    """A chart for each property: accuracy by layer, with chance as a dashed line. Calls of one model share it."""
    properties = dict.fromkeys(probe.property for probe in measured)
    return png(side_by_side([_chart([probe for probe in measured if probe.property == name]) for name in properties]))


def _chart(measured: Sequence[Probe]) -> Image.Image:
    width, height = CHART
    canvas = Image.new("RGB", CHART, "white")
    draw = ImageDraw.Draw(canvas)
    write(draw, (PAD, PAD // 2), f"{measured[0].property}: what a linear classifier tells", INK, 13)
    left, right, top, bottom = 44, width - 16, 40, height - 34

    def place(accuracy: float) -> float:
        return bottom - accuracy * (bottom - top)

    for level in (0.0, 0.5, 1.0):
        draw.line([(left, place(level)), (right, place(level))], "#dddddd")
        write(draw, (left - 6, place(level)), f"{level:.0%}", PALE, 11, "rm")
    for x in range(left, right, 8):
        draw.line([(x, place(measured[0].chance)), (x + 4, place(measured[0].chance))], PALE)
    write(draw, (right, place(measured[0].chance) + 3), "chance", PALE, 11, "ra")
    step = (right - left) / len(measured)
    points = [(left + (i + 0.5) * step, place(probe.accuracy)) for i, probe in enumerate(measured)]
    draw.line(points, BLUE, 2)
    for (across, down), probe in zip(points, measured, strict=True):
        draw.ellipse((across - 4, down - 4, across + 4, down + 4), BLUE)
        write(draw, (across, down - 8), f"{probe.accuracy:.0%}", INK, 11, "ms")
        write(draw, (across, bottom + 8), probe.layer, INK, 11, "ma")
    return canvas


def _list(subject: Subject, attribution: Attribution, name: str, figures: Sequence[str] = ()) -> Image.Image:
    """What is no image, under a line that says the answer and the method."""
    match subject.kind:
        case TextKind() as kind:
            return _coloured_words(subject, kind, attribution, name, figures)
        case AudioKind() as kind:
            return _spectrogram(subject, kind, attribution, name, figures)
        case RowKind() as kind:
            return _bars(subject, kind, attribution, name, figures)
    raise TypeError(f"no picture of a {type(subject.kind).__name__}")


def _coloured_words(
    subject: Subject, kind: TextKind, attribution: Attribution, name: str, figures: Sequence[str]
) -> Image.Image:
    """The text with what each word contributes behind it, and an explained answer underlined."""
    highest = max(float(np.abs(attribution.values).max()), 1e-12)
    letters = font(TEXT_SIZE)
    places, lines = _wrapped(kind, letters)
    height = 2 * LINE + lines * TEXT_LINE + 16 * len(figures) + 3 * PAD
    canvas = Image.new("RGB", (TEXT_WIDTH, height), "white")
    draw = ImageDraw.Draw(canvas)
    title = f"{_answer(subject)}: {name.replace('_', ' ')}"
    write(draw, (PAD, PAD // 2), title, INK, 13)
    for word, value, (left, line) in zip(kind.words, attribution.values.tolist(), places, strict=True):
        top, width = PAD + LINE + line * TEXT_LINE, letters.getlength(_shown(word))
        draw.rectangle((left, top, left + width, top + TEXT_LINE - 4), _tint(value / highest))
    for word, (left, line) in zip(kind.words, places, strict=True):
        top, width = PAD + LINE + line * TEXT_LINE, letters.getlength(_shown(word))
        write(draw, (left, top + TEXT_LINE / 2 - 2), _shown(word), INK, TEXT_SIZE, "lm")
        start, end = kind.answer or (0, 0)
        if not word.in_question and start <= word.start and word.end <= end:
            draw.line([(left, top + TEXT_LINE - 3), (left + width, top + TEXT_LINE - 3)], INK, 2)
    top = 2 * PAD + LINE + lines * TEXT_LINE
    for i, level in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0) if attribution.signed else (0.0, 0.5, 1.0)):
        left = PAD + i * 80
        draw.rectangle((left, top, left + 14, top + 14), _tint(level), PALE)
        write(draw, (left + 20, top + 7), f"{level * highest:+.2g}" if level else "0", PALE, 11, "lm")
    for i, line_ in enumerate(figures):
        write(draw, (PAD, height - PAD - 16 * (len(figures) - i)), line_, INK, 11)
    return canvas


def _spectrogram(
    subject: Subject, kind: AudioKind, attribution: Attribution, name: str, figures: Sequence[str]
) -> Image.Image:
    """Energies over time, low bands below, above what each contributes; the explained frames are marked."""
    frames, bands = kind.x.shape
    wide, high = max(1, AUDIO_WIDTH // frames), BAND_HEIGHT
    width, height = frames * wide, bands * high
    energies = kind.x.T[::-1, :, None]
    grey = (255 * (energies - energies.min()) / max(float(np.ptp(energies)), 1e-6)).astype(np.uint8)
    turned = Attribution(attribution.values.T[::-1, :, None], attribution.signed)
    size = width + 3 * PAD + SCALE_WIDTH + 60, 2 * height + 3 * LINE + 3 * PAD + 16 * len(figures)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    title = f"{_answer(subject)}, {kind.start:.2f} to {kind.end:.2f} s: {name.replace('_', ' ')}"
    write(draw, (PAD, PAD // 2), title, INK, 13)
    top, below = PAD + LINE, PAD + LINE + height + 4
    for place, picture in ((top, coloured(grey)), (below, _map(grey, turned))):
        canvas.paste(Image.fromarray(picture.repeat(high, 0).repeat(wide, 1)), (PAD, place))
    left, right = (PAD + round(at / kind.frame_seconds * wide) for at in (kind.start, kind.end))
    draw.line([(left, below + height + 2), (right, below + height + 2)], INK, 3)
    for second in np.arange(0, frames * kind.frame_seconds, 0.5 if frames < 400 else 1.0):
        place = PAD + round(second / kind.frame_seconds * wide)
        write(draw, (place, below + height + 6), f"{second:g} s", PALE, 11, "la" if place == PAD else "ma")
    _scale(canvas, (width + 2 * PAD, below), height, turned)
    for i, line in enumerate(figures):
        write(draw, (PAD, canvas.height - PAD - 16 * (len(figures) - i)), line, INK, 11)
    return canvas


def _wrapped(
    kind: TextKind, letters: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> tuple[list[tuple[float, int]], int]:
    """Where each word begins: pixels from the left, and line; and how many lines there are."""
    places: list[tuple[float, int]] = []
    left, line, before = float(PAD), 0, None
    for word in kind.words:
        text = kind.question if word.in_question else kind.text
        if before is not None and before.in_question != word.in_question:
            left, line = PAD, line + 1
        elif before is not None:
            left += letters.getlength(" ") * 1.5 * (before.end < word.start)
            if "\n\n" in text[before.end : word.start]:  # single breaks are where lines ended elsewhere
                left, line = PAD, line + 2
        width = letters.getlength(_shown(word))
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


def _bars(subject: Subject, kind: RowKind, attribution: Attribution, name: str, figures: Sequence[str]) -> Image.Image:
    """The features that matter most, the longest bar first."""
    order = np.argsort(-np.abs(attribution.values), kind="stable")[:BARS]
    highest = max(float(np.abs(attribution.values).max()), 1e-12)
    width, middle = 640, NAME_WIDTH + 180 if attribution.signed else NAME_WIDTH + PAD
    space = width - middle - 70 if attribution.signed else width - middle - 80
    space = min(space, middle - NAME_WIDTH) if attribution.signed else space
    height = 2 * LINE + len(order) * BAR_HEIGHT + 16 * len(figures) + 2 * PAD
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    write(draw, (PAD, PAD // 2), f"{_answer(subject)}: {name.replace('_', ' ')}", INK, 13)
    for i, index in enumerate(order):
        value, top = float(attribution.values[index]), PAD + LINE + i * BAR_HEIGHT
        centre = top + BAR_HEIGHT / 2
        feature = f"{kind.features[index]} = {kind.x[index]:.4g}"
        write(draw, (NAME_WIDTH, centre), feature, INK, 12, "rm")
        end = middle + value / highest * (space - 50)
        colour, aside, anchor = (ORANGE, 5, "lm") if value > 0 else (BLUE, -5, "rm")
        draw.rectangle((min(middle, end), top + 4, max(middle, end), top + BAR_HEIGHT - 4), colour)
        write(draw, (end + aside, centre), f"{value:+.3g}", PALE, 11, anchor)
    draw.line([(middle, PAD + LINE), (middle, PAD + LINE + len(order) * BAR_HEIGHT)], INK)
    for i, line in enumerate(figures):
        write(draw, (PAD, height - PAD - 16 * (len(figures) - i)), line, INK, 11)
    return canvas


def _answer(subject: Subject) -> str:
    """The answer in a few words."""
    name, value = subject.labels[subject.target], float(subject.outputs[subject.target])
    return f"{name} {subject.probability:.0%}" if subject.classifies else f"{name} {value:.4g}"


def _map(image: NDArray[np.uint8], attribution: Attribution) -> NDArray[np.uint8]:
    """The colours of values, with something of the image in grey so that one sees where they are."""
    grey, (lowest, highest) = image.mean(2, keepdims=True), _range(attribution)
    levels = attribution.map / highest if attribution.signed else (attribution.map - lowest) / (highest - lowest)
    painted = colours(levels.astype(np.float32), two_sided=attribution.signed)
    return np.asarray((1 - GREY_SHARE) * painted + GREY_SHARE * grey, np.uint8)


def _range(attribution: Attribution) -> tuple[float, float]:
    """Values with the darkest and the lightest colour; opposite ones if the sign means something."""
    highest = float(np.percentile(np.abs(attribution.map), HIGHEST))
    lowest = -highest if attribution.signed else float(attribution.map.min())
    return lowest, max(highest, lowest + 1e-12)


def _factor(image: NDArray[np.uint8], side: int) -> int:
    height, width = image.shape[:2]
    return max(1, side // max(int(height), int(width)))


def _enlarged(image: NDArray[np.uint8], factor: int) -> Image.Image:
    height, width = image.shape[:2]
    return Image.fromarray(image).resize((factor * width, factor * height), Image.Resampling.NEAREST)
