"""Drawings of CIFAR-10's ten classes: icons and emoji of Iconify's permissive sets, 32 x 32, for domain adaptation.

A drawing belongs to a class if its name, without words of style, is one of the class's. 30 % are the test split, by
the SHA-1 of their id; the others train without their labels. Two drawings that look the same count once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.cifar10 import Split
from training.data.iconify import icons, render

SIZE = 32
FOLDS, TEST_FOLDS = 10, 3
NAMES = {
    "airplane": "airplane aeroplane air-plane plane airliner jet fighter-jet aircraft small-airplane passenger-plane",
    "automobile": "automobile oncoming-automobile car car-side car-front car-profile car-sport car-alt sedan suv taxi "
    "oncoming-taxi racing-car police-car oncoming-police-car sport-utility-vehicle",
    "bird": "bird black-bird eagle duck owl parrot dove swan penguin chicken rooster turkey flamingo peacock goose "
    "baby-chick front-facing-baby-chick hatching-chick crow sparrow pigeon hummingbird",
    "cat": "cat cat-face black-cat kitten",
    "deer": "deer reindeer stag moose elk doe",
    "dog": "dog dog-face dog-side poodle guide-dog service-dog puppy",
    "frog": "frog frog-face toad",
    "horse": "horse horse-face horse-head racehorse pony",
    "ship": "ship passenger-ship cruise-ship cargo-ship boat motor-boat speedboat sailboat sail-boat ferry yacht",
    "truck": "truck delivery-truck pickup-truck fire-truck dump-truck garbage-truck tow-truck monster-truck "
    "truck-moving fire-engine lorry articulated-lorry",
}
STYLES = (
    "outline outlined outlines fill filled bold line linear solid duotone duo tone twotone two light thin regular "
    "rounded round sharp broken color flat alt icon sign simple stroke mini micro thick medium black white "
    "sm lg s l o f"
)
CLASSES = {name: label for label, words in enumerate(NAMES.values()) for name in words.split()}


@dataclass(frozen=True)
class Drawings:
    """The labels of `train` are only for looking at; nothing learns from them."""

    train: Split
    test: Split


def load() -> Drawings:
    """Every drawing, rendered; the package is fetched on first use (104 MB)."""
    pictures: dict[bytes, tuple[NDArray[np.uint8], int, bool]] = {}
    for icon in icons():
        label = CLASSES.get(plain_name(icon.name))
        if label is not None:
            picture = render(icon, SIZE)
            pictures.setdefault(picture.tobytes(), (picture, label, icon.fold(FOLDS) < TEST_FOLDS))
    train, test = ([(p, label) for p, label, held in pictures.values() if held == part] for part in (False, True))
    return Drawings(train=_split(train), test=_split(test))


def load_sliver(path: Path) -> Drawings:
    """A few real drawings from a committed `.npz` (`images`, `labels`), the last third of them as test."""
    with np.load(path) as file:
        everything = Split(file["images"], file["labels"].astype(np.int64))
    first = len(everything) * 2 // 3
    return Drawings(train=everything[:first], test=everything[first:])


def plain_name(name: str) -> str:
    """An icon's name without words of style and sizes at its ends: `cat-face-duotone` -> `cat-face`."""
    words = name.split("-")
    while words and _is_style(words[-1]):
        words.pop()
    while words and _is_style(words[0]):
        words.pop(0)
    return "-".join(words)


def _is_style(word: str) -> bool:
    return word in STYLES.split() or re.fullmatch(r"\d+", word) is not None


def _split(drawings: list[tuple[NDArray[np.uint8], int]]) -> Split:
    return Split(np.stack([picture for picture, _ in drawings]), np.array([label for _, label in drawings], np.int64))
