"""Printed digits: 0 to 9 by the upright faces of Debian's Latin fonts, at five sizes, drawn as MNIST's digits lie.

Faces of whole families are held out. White on black, 28 x 28.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from artifacts.card import DataSource
from training.data.fetch import Debian
from training.data.idx import Split

SIDE = 28
HEIGHTS = (17, 18, 19, 20, 21)  # of a digit, in pixels
EM = 64  # drawn large first, so that every face gives the same height
NOT_UPRIGHT = ("Italic", "Oblique", "Thin", "Hairline", "Cond", "Narrow")
TRAIN = (
    Debian("fonts-lato", "2.0-2.1", "86f50af146a7df9eca4e69f0262e73e708908435ebfa833df797adfa08843bc5", "OFL-1.1"),
    Debian(
        "fonts-roboto-unhinted",
        "2:0~20170802-3",
        "f89cf7d8a589489daecf750031ec50456ab3e648d49ff544f0f08753268fbd91",
        "Apache-2.0",
    ),
    Debian(
        "fonts-open-sans", "1.11-2", "ed8c4258af6c23e5105fa18940544f060f3c9664fbe881f25130fe0c65bc1485", "Apache-2.0"
    ),
    Debian(
        "fonts-dejavu-core",
        "2.37-6",
        "8892669e51aab4dc56682c8e39d8ddb7d70fad83c369344e1e240bf3ca22bb76",
        "Bitstream Vera",
    ),
    Debian(
        "fonts-sil-gentiumplus",
        "6.101-1",
        "9b05c3ca056bbbdff263ca0cbd7a1b0e2047d556e47e24d1182800413b5d511b",
        "OFL-1.1",
    ),
)
TEST = (
    Debian(
        "fonts-cantarell", "0.303.1-1", "8fdf5687d9e2ce70456664519025a6b48fbaaadbc5b1cfbf8b09f72c2dc5f09b", "OFL-1.1"
    ),
    Debian(
        "fonts-crosextra-carlito",
        "20220224-1",
        "673689e3a887cd150ca5018c26e1a4162709add3a1bdc0a2527af6fd073980d7",
        "OFL-1.1",
    ),
    Debian(
        "fonts-crosextra-caladea",
        "20200211-1",
        "dd51af7629df5a2f3799f889cdf63d5abdda32e94e5de59398f728d98604a240",
        "OFL-1.1",
    ),
)


@dataclass(frozen=True)
class PrintedDigits:
    train: Split
    test: Split


def load() -> PrintedDigits:
    """The whole data set, drawn on first use from eight packages (16 MB)."""
    return PrintedDigits(draw(TRAIN), draw(TEST))


def draw(packages: tuple[Debian, ...]) -> Split:
    """Each digit by each upright face of the packages, at each height."""
    images, labels = [], []
    for package in packages:
        for file in sorted(p for p in package.fetch().rglob("*.[ot]tf") if not any(s in p.stem for s in NOT_UPRIGHT)):
            for digit in range(10):
                large = draw_large(file, str(digit))
                for height in HEIGHTS:
                    images.append(place(large, height))
                    labels.append(digit)
    return Split(np.stack(images), np.array(labels))


def draw_large(file: Path, character: str) -> Image.Image:
    """The character, cut out where its ink ends."""
    font = ImageFont.truetype(file, EM)
    image = Image.new("L", (2 * EM, 2 * EM))
    ImageDraw.Draw(image).text((EM // 2, EM // 4), character, fill=255, font=font)
    return image.crop(image.getbbox())


def place(image: Image.Image, height: int) -> NDArray[np.uint8]:
    """Scaled to that height, its centre of mass in the middle of uint8 [28, 28]."""
    width = max(1, round(image.width * height / image.height))
    if width > SIDE - 4:
        width = SIDE - 4
    ink = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    rows, columns = (np.arange(n) for n in ink.shape)
    total = ink.sum()
    top = round((SIDE - 1) / 2 - float(ink.sum(1) @ rows / total))
    left = round((SIDE - 1) / 2 - float(ink.sum(0) @ columns / total))
    top, left = min(max(top, 0), SIDE - height), min(max(left, 0), SIDE - width)
    placed = np.zeros((SIDE, SIDE), np.uint8)
    placed[top : top + height, left : left + width] = ink
    return placed


def card_entries(data: PrintedDigits) -> tuple[DataSource, ...]:
    """What a card says about each package; the digits are counted with the first of each split."""
    counts = {TRAIN[0]: (len(data.train), 0), TEST[0]: (0, len(data.test))}
    return tuple(
        package.card_entry(train=counts.get(package, (0, 0))[0], validation=0, test=counts.get(package, (0, 0))[1])
        for package in (*TRAIN, *TEST)
    )
