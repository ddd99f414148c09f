"""Pictures that are no clothes, 28 x 28 and grey as Fashion-MNIST's: digits, kanji, noise, and clothes with damage.

They only measure and calibrate a detector; none trains it. Digits and kanji of the two splits share neither writers nor
characters nor fonts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artifacts.card import DataSource
from training.data import fonts, mnist
from training.data.fashion_mnist import FashionMnist

Images = NDArray[np.uint8]
NOISE = 1_000
DAMAGE = ("erased", "pasted", "scratched", "speckled")


@dataclass(frozen=True)
class Anomalies:
    """Images uint8 [N, 28, 28] by kind (`mnist`, `kanji`, `noise`, `corrupted`), and what a card says of them."""

    validation: dict[str, Images]
    test: dict[str, Images]
    sources: tuple[DataSource, ...]


def load(clothes: FashionMnist, track: Callable[[Iterable[Path], str, int], Iterable[Path]]) -> Anomalies:
    """Every kind; MNIST and eight fonts are fetched on first use (47 MB)."""
    digits = mnist.load()
    test_characters, validation_characters, _ = fonts.split_characters()
    drawn = {
        "validation": fonts.draw(fonts.VALIDATION, validation_characters, track),
        "test": fonts.draw(fonts.TEST, test_characters, track),
    }
    sources = [mnist.SOURCE.card_entry(train=0, validation=len(digits.validation), test=len(digits.test))]
    for split, packages in (("validation", fonts.VALIDATION), ("test", fonts.TEST)):
        first = 0
        for package in packages:
            last = first + len(package.files)
            count = int(((drawn[split].writers >= first) & (drawn[split].writers < last)).sum())
            sources.append(package.source.card_entry(**{"train": 0, "validation": 0, "test": 0, split: count}))
            first = last
    return Anomalies(
        _kinds(digits.validation.images, drawn["validation"].images, clothes.validation.images, seed=1),
        _kinds(digits.test.images, drawn["test"].images, clothes.test.images, seed=2),
        tuple(sources),
    )


def load_sliver(path: Path, clothes: FashionMnist) -> Anomalies:
    """A few digits and kanji from a committed `.npz` (`mnist`, `kanji`), split in halves."""
    with np.load(path) as file:
        digits, kanji = np.array_split(file["mnist"], 2), np.array_split(file["kanji"], 2)
    validation = _kinds(digits[0], kanji[0], clothes.validation.images, seed=1)
    return Anomalies(validation, _kinds(digits[1], kanji[1], clothes.test.images, seed=2), ())


def noise(count: int, random: np.random.Generator) -> Images:
    """Every pixel drawn uniformly."""
    return random.integers(0, 256, (count, 28, 28), dtype=np.uint8)


def corrupt(images: Images, random: np.random.Generator) -> Images:
    """A copy of each image with one of four kinds of damage near its middle, in turn.

    A square of 10 x 10 is erased; one is pasted from the next image; a bright or dark scratch two pixels wide crosses
    it; or a tenth of all pixels become black or white.
    """
    damaged = images.copy()
    for i, image in enumerate(damaged):
        row, column = random.integers(4, 15, 2)
        square = np.s_[row : row + 10, column : column + 10]
        match DAMAGE[i % len(DAMAGE)]:
            case "erased":
                image[square] = 0
            case "pasted":
                image[square] = images[(i + 1) % len(images)][square]
            case "scratched":
                slope, colour = random.uniform(-1, 1), random.choice((0, 255))
                columns = np.arange(4, 24)
                rows = (np.clip(row + 5 + slope * (columns - 14), 0, 26)).astype(int)
                image[rows, columns] = image[rows + 1, columns] = colour
            case "speckled":
                chosen = random.random(image.shape) < 0.1
                image[chosen] = random.choice((0, 255), chosen.sum())
    return damaged


def _kinds(digits: Images, kanji: Images, clothes: Images, seed: int) -> dict[str, Images]:
    random = np.random.default_rng(seed)
    count = min(NOISE, len(clothes))
    return {"mnist": digits, "kanji": kanji, "noise": noise(count, random), "corrupted": corrupt(clothes, random)}
