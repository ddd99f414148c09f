"""Omniglot (Lake, Salakhutdinov and Tenenbaum 2015, "Human-level concept learning"): 20 people draw each character.

Training takes the two small background sets, one alphabet of them for validation; the test is the official 20 runs of
one-shot classification, each with 20 new characters of one alphabet, drawn by people seen nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artifacts.card import DataSource
from training.data.fetch import GitHub
from training.data.fonts import SIZE, Glyphs

COMMIT = "057f034baf2ecb8530bc5710e5a23584d2a519cc"
VALIDATION_ALPHABET = "Early_Aramaic"
RUNS = 20


def _source(path: str, sha256: str) -> GitHub:
    return GitHub(f"brendenlake/omniglot/python/{path}", COMMIT, sha256, "MIT")


BACKGROUND = (
    _source("images_background_small1.zip", "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"),
    _source("images_background_small2.zip", "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"),
)
TEST = _source(
    "one-shot-classification/all_runs.zip", "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325"
)


@dataclass(frozen=True)
class OneShotRun:
    """One image of each of 20 classes, and 20 images to classify, ink 255 on 0: uint8 [20, 28, 28] each.

    `answers[i]` is the row of `support` whose character `queries[i]` shows.
    """

    support: NDArray[np.uint8]
    queries: NDArray[np.uint8]
    answers: NDArray[np.int64]


@dataclass(frozen=True)
class Omniglot:
    train: Glyphs
    validation: Glyphs
    runs: tuple[OneShotRun, ...]


def load() -> Omniglot:
    """Everything, fetched on first use (3 MB)."""
    drawings: dict[tuple[str, str], dict[str, NDArray[np.uint8]]] = {}
    for source in BACKGROUND:
        with _archive(source) as archive:
            for path in sorted(archive.namelist()):
                if path.endswith(".png"):  # SET/ALPHABET/CHARACTER/NUMBER_WRITER.png; both sets have Greek and Latin
                    _, alphabet, character, file = path.split("/")
                    drawings.setdefault((alphabet, character), {})[file] = _read(archive, path)
    return Omniglot(
        train=_glyphs([d for (alphabet, _), d in drawings.items() if alphabet != VALIDATION_ALPHABET]),
        validation=_glyphs([d for (alphabet, _), d in drawings.items() if alphabet == VALIDATION_ALPHABET]),
        runs=load_runs(),
    )


def load_runs() -> tuple[OneShotRun, ...]:
    """The official 20 runs."""
    with _archive(TEST) as archive:
        return tuple(_read_run(archive, f"run{run:02d}") for run in range(1, RUNS + 1))


def card_entries(data: Omniglot) -> tuple[DataSource, ...]:
    """What a card says about this data; the background sets overlap and are counted together."""
    first, second = BACKGROUND
    test = sum(len(run.queries) for run in data.runs)
    return (
        first.card_entry(train=len(data.train), validation=len(data.validation), test=0),
        second.card_entry(train=len(data.train), validation=len(data.validation), test=0),
        TEST.card_entry(train=0, validation=0, test=test),
    )


def _archive(source: GitHub) -> ZipFile:
    return ZipFile(source.fetch() / Path(source.name).name)


def _glyphs(characters: list[dict[str, NDArray[np.uint8]]]) -> Glyphs:
    images = [image for files in characters for image in files.values()]
    labels = [label for label, files in enumerate(characters) for _ in files]
    writers = [int(Path(name).stem.split("_")[1]) - 1 for files in characters for name in files]
    return Glyphs(np.stack(images), np.array(labels), np.array(writers))


def _read_run(archive: ZipFile, name: str) -> OneShotRun:
    pairs = [line.split() for line in archive.read(f"{name}/class_labels.txt").decode().splitlines()]
    support = sorted({known for _, known in pairs})
    return OneShotRun(
        support=np.stack([_read(archive, path) for path in support]),
        queries=np.stack([_read(archive, path) for path, _ in pairs]),
        answers=np.array([support.index(known) for _, known in pairs]),
    )


def _read(archive: ZipFile, path: str) -> NDArray[np.uint8]:
    """A drawing of 105 x 105 pixels, ink 0 on 255, reduced as the server reduces images, and inverted."""
    with archive.open(path) as file:
        image = Image.open(file).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX)
    return 255 - np.asarray(image)
