"""Voices of free programs: clips of letters, syllables, words, numbers and prompts from seven Debian packages.

A voice is a package's folder of one language, or of one speaker where the package says so; one voice reads both the
Belarusian and the Russian of qabcs-data. Files that repeat another's bytes are left out.

A voice with at least 25 clips is known: of its clips in the order of their paths every fifth is in the test split, and
of the rest every eighth in the validation split. The smaller ones are unknown: no network is trained on them, and they
take turns in testing and in validating the verification of speakers nobody has enrolled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artifacts.card import DataSource
from training.data.audio import Samples, read, unpack
from training.data.fetch import Debian

ONE_VOICE = {"be": "be-ru", "ru": "be-ru"}
SUFFIXES = (".gsm", ".ogg", ".wav")
FEWEST_CLIPS = 25
TEST_EVERY = 5
VALIDATION_EVERY = 8

GPL_2 = "GPL-2.0-or-later"
SOURCES = (
    Debian(
        name="klettres-data",
        version="4:22.12.3-1",
        sha256="1186d257a19e84230856baea0b0b1ded8be9195080fcdb2588970b5cd937f5a8",
        licence=GPL_2,
    ),
    Debian(
        name="ktuberling-data",
        version="4:22.12.3-1",
        sha256="fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed",
        licence=GPL_2,
    ),
    Debian(
        name="qabcs-data",
        version="1.0.2-6",
        sha256="3484da4cf258e6f3a39a1fc99bbfcaddfd679cff96a8fa792f261ab0a2bf9d86",
        licence="GPL-3.0-or-later",
    ),
    Debian(
        name="kajongg",
        version="4:22.12.3-1",
        sha256="be0a9cc0f9a97064ffa0ab01133f55e021c7c58f9869857431bf1ca951dadbaf",
        licence=GPL_2,
    ),
    Debian(
        name="gcin-voice",
        version="0~20170223-3",
        sha256="6a0353f0294d06f7bd901bada3d5d9eec63b66c2ec029f92da3124d93d45de70",
        licence="LGPL-3.0 or GPL-3.0 (Edward Der-Hua Liu) and CC-BY-3.0 (Chu Lo, ChionMeilin)",
    ),
    Debian(
        name="asterisk-prompt-es-co",
        version="0.20070403-2.1",
        sha256="6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83",
        licence="GPL-2.0",
    ),
    Debian(
        name="asterisk-prompt-fr-armelle",
        version="20070613-2.2",
        sha256="162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3",
        licence="BSD-like (Copyright 2006 Michel Gutierrez)",
    ),
)


@dataclass(frozen=True)
class Split:
    """Clips, samples int16 at 16 kHz, and the voice of each as an index into `names`, int64 [N]."""

    names: tuple[str, ...]
    clips: tuple[Samples, ...]
    voices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.clips)

    def of(self, package: str) -> int:
        """How many clips come from a package."""
        return sum(self.names[voice].split()[0] == package for voice in self.voices)


@dataclass(frozen=True)
class Voices:
    """Clips of known voices in three splits, and of unknown ones in two."""

    train: Split
    validation: Split
    test: Split
    unknown_validation: Split
    unknown_test: Split

    @property
    def names(self) -> tuple[str, ...]:
        """Of the known voices."""
        return self.train.names


def load() -> Voices:
    """Every voice, fetched on first use (135 MB)."""
    return split({name: [read(path) for path in paths] for name, paths in files().items()}, FEWEST_CLIPS)


def load_sliver(path: Path) -> Voices:
    """A few voices from a committed `.npz` (`audio.pack`, `voices`, `names`); those with fewest clips are unknown."""
    with np.load(path) as file:
        clips: dict[str, list[Samples]] = {name: [] for name in file["names"].tolist()}
        names = list(clips)
        for samples, voice in zip(unpack(file["flac"], file["lengths"]), file["voices"], strict=True):
            clips[names[voice]].append(samples)
    return split(clips, 1 + min(map(len, clips.values())))


def split(clips: Mapping[str, Sequence[Samples]], fewest: int) -> Voices:
    """The fixed split; voices with fewer clips than `fewest` are unknown."""
    known = {name: clips[name] for name in sorted(clips) if len(clips[name]) >= fewest}
    unknown = sorted(clips.keys() - known.keys())
    tests = {name: of[::TEST_EVERY] for name, of in known.items()}
    others = {name: [c for i, c in enumerate(of) if i % TEST_EVERY] for name, of in known.items()}
    return Voices(
        train=_split({name: [c for i, c in enumerate(of) if i % VALIDATION_EVERY] for name, of in others.items()}),
        validation=_split({name: of[::VALIDATION_EVERY] for name, of in others.items()}),
        test=_split(tests),
        unknown_validation=_split({name: clips[name] for name in unknown[1::2]}),
        unknown_test=_split({name: clips[name] for name in unknown[::2]}),
    )


def files() -> dict[str, list[Path]]:
    """The files of each voice in the order of their paths; of equal ones the first is taken."""
    files_of: dict[str, list[Path]] = {}
    seen: set[bytes] = set()
    for source in SOURCES:
        root = source.fetch()
        for path in sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES and not p.is_symlink()):
            speaker = speaker_of(source.name, path.relative_to(root).parts)
            if speaker is None or (digest := hashlib.sha256(path.read_bytes()).digest()) in seen:
                continue
            seen.add(digest)
            files_of.setdefault(f"{source.name} {speaker}", []).append(path)
    return files_of


def speaker_of(package: str, parts: Sequence[str]) -> str | None:
    """Who speaks in a file of a package, by its path there; None = nobody, it is a noise."""
    match package:
        case "klettres-data":  # usr/share/klettres/LANGUAGE/LEVEL/
            return parts[3]
        case "ktuberling-data":  # usr/share/ktuberling/sounds/LANGUAGE@SCRIPT/
            return parts[4].partition("@")[0]
        case "qabcs-data":  # usr/share/qabcs/abcs/LANGUAGE/sounds/
            return None if parts[4] == "all" else ONE_VOICE.get(parts[4], parts[4])
        case "kajongg":  # usr/share/kajongg/voices/[LANGUAGE/]SPEAKER/
            return "-".join(parts[4:-1])
        case "gcin-voice":  # usr/share/gcin-voice/ogg/SYLLABLE/SPEAKER.ogg
            return Path(parts[-1]).stem
    return parts[4]  # usr/share/asterisk/sounds/LANGUAGE/


def card_entries(data: Voices) -> tuple[DataSource, ...]:
    """What a card says about this data, a package at a time, counted in clips; unknown voices are among the others."""
    splits = (data.train,), (data.validation, data.unknown_validation), (data.test, data.unknown_test)
    return tuple(
        source.card_entry(*(sum(part.of(source.name) for part in parts) for parts in splits)) for source in SOURCES
    )


def _split(clips: Mapping[str, Sequence[Samples]]) -> Split:
    voices = np.repeat(np.arange(len(clips)), [len(of) for of in clips.values()])
    return Split(tuple(clips), tuple(clip for of in clips.values() for clip in of), voices)
