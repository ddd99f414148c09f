"""festvox-ru (N. V. Shmyrev, 2005): 620 Russian sentences of one speaker, 99.5 minutes, aligned with their phones.

A frame is 10 ms long and has the phone that sounds at its centre. The split goes by the last digit of a sentence's
number: 0 is in the test split, 1 in the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.audio import RATE, Samples, read, unpack
from training.data.fetch import Debian

SOURCE = Debian(
    name="festvox-ru",
    version="0.5+dfsg-6",
    sha256="21ef3f0f2978ecf2e2eddb367cb0ff4a72572196d28dc69feb84f4177af5e6c4",
    licence="BSD-like (Copyright 2005 Nickolay V. Shmyrev)",
)
VOICE = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
HOP = RATE // 100
PAUSE = "pau"
# As the package writes them: a doubled consonant is a palatalised one, a doubled vowel a stressed one.
# fmt: off
PHONES = (
    "a", "aa", "ae", "ay", "b", "bb", "c", "ch", "d", "dd", "e", "ee", "f", "ff", "g", "gg", "h", "hh", "i", "ii", "j",
    "k", "kk", "l", "ll", "m", "mm", "n", "nn", "oo", "p", "pau", "pp", "r", "rr", "s", "sch", "sh", "ss", "t", "tt",
    "u", "ur", "uu", "v", "vv", "y", "yy", "z", "zh", "zz",
)
# fmt: on


@dataclass(frozen=True)
class Sentence:
    """Samples int16 [T] at 16 kHz, and the index of the phone of each whole frame, int64 [T // HOP]."""

    samples: Samples
    phones: NDArray[np.int64]


@dataclass(frozen=True)
class FestvoxRu:
    train: tuple[Sentence, ...]
    validation: tuple[Sentence, ...]
    test: tuple[Sentence, ...]


def load() -> FestvoxRu:
    """Every sentence, fetched on first use (179 MB)."""
    voice = SOURCE.fetch() / VOICE
    names = sorted(path.stem for path in (voice / "wav").glob("*.wav"))
    splits: dict[str, list[Sentence]] = {"train": [], "validation": [], "test": []}
    for name in names:
        split = {"0": "test", "1": "validation"}.get(name[-1], "train")
        splits[split].append(sentence(voice, name))
    return FestvoxRu(**{split: tuple(sentences) for split, sentences in splits.items()})


def load_sliver(path: Path) -> FestvoxRu:
    """A few real sentences from a committed `.npz` (`audio.pack` and `phones`): the last two validate and test."""
    with np.load(path) as file:
        clips = unpack(file["flac"], file["lengths"])
        phones = np.split(file["phones"].astype(np.int64), np.cumsum([len(clip) // HOP for clip in clips])[:-1])
    sentences = [Sentence(samples, labels) for samples, labels in zip(clips, phones, strict=True)]
    return FestvoxRu(tuple(sentences[:-2]), tuple(sentences[-2:-1]), tuple(sentences[-1:]))


def sentence(voice: Path, name: str) -> Sentence:
    """One sentence with its alignment, whose lines are `end_in_seconds 125 phone` after one of `#`."""
    samples = read(voice / "wav" / f"{name}.wav")
    rows = [line.split() for line in (voice / "lab" / f"{name}.lab").read_text().splitlines()[1:]]
    ends = np.array([float(row[0]) for row in rows])
    indices = np.array([PHONES.index(row[2]) for row in rows] + [PHONES.index(PAUSE)])
    centres = (np.arange(len(samples) // HOP) + 0.5) * HOP / RATE
    return Sentence(samples, indices[np.searchsorted(ends, centres, side="right")].astype(np.int64))


def frames(sentences: Sequence[Sentence]) -> int:
    """How many frames they have."""
    return sum(len(sentence.phones) for sentence in sentences)
