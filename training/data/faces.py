"""Emoji faces and people: seven permissive sets of coloured drawings (`iconify`), 64 x 64, one head or bust each.

Skin tones and numbered variants of one drawing fall on the same side of the split: a tenth of the drawings, by hash of
`set:name` without tone and number, is held out. Drawings that look the same to the pixel are kept once.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data import iconify

SIZE = 64
SETS = ("emojione", "fluent-emoji", "fluent-emoji-flat", "noto", "noto-v1", "streamline-emojis", "twemoji")
_VARIANT = re.compile(r"-(medium-)?(light|medium|dark)(-skin-tone)?(?=-|$)|-(tone)?\d$")
_ROLES = (
    "artist|astronaut|construction-worker|cook|deaf|detective|elf|factory-worker|firefighter|frowning|guard|"
    "health-worker|in-tuxedo|judge|mage|mechanic|office-worker|pilot|police-officer|pouting|scientist|singer|student|"
    "teacher|technologist|vampire|wearing-turban|with-chinese-cap|with-crown|with-headscarf|with-skullcap|with-veil"
)
_LOOKS = "bald|beard|blonde?-hair|curly-hair|red-hair|white-hair"
_NOT_HUMAN = (
    "bear|cat|clock|clouds|cow|dog|dotted|dragon|fox|frog|hamster|horse|lion|monkey|moon|mouse|panda|pig|rabbit|sun|"
    "tiger|unicorn|wind|wolf"
)
_FACE = re.compile(
    rf"(man|woman|person)(-({_ROLES}|{_LOOKS}))?|{_ROLES}|adult|alien|baby|baby-angel|blond-haired-person|boy|bride-with-veil|"
    r"child|ghost|girl|goblin|(mrs|mx|santa)-claus|ninja|ogre|old(er)?-(adult|man|person|woman)|prince|princess|robot|"
    rf"skull|(?!.*\b({_NOT_HUMAN})\b)(.+-)?face(-.+)?"
)


@dataclass(frozen=True)
class Faces:
    """Drawings uint8 [N, 64, 64, 3] (RGB) to learn from, and those held out."""

    train: NDArray[np.uint8]
    test: NDArray[np.uint8]


def face(name: str) -> str | None:
    """The name of a drawing without skin tone and number, or None if it shows no face or bust of a person."""
    base = _VARIANT.sub("", name)
    return base if _FACE.fullmatch(base) else None


def load() -> Faces:
    """The whole data set, drawn on first use from the package that `iconify` fetches (104 MB)."""
    train: dict[bytes, NDArray[np.uint8]] = {}
    test: dict[bytes, NDArray[np.uint8]] = {}
    for icon in iconify.icons():
        name = face(icon.name)
        if icon.set in SETS and name:
            digest = hashlib.sha1(f"{icon.set}:{name}".encode(), usedforsecurity=False).hexdigest()
            image = iconify.render(icon, SIZE)
            (train if int(digest, 16) % 10 else test).setdefault(image.tobytes(), image)
    return Faces(np.stack(list(train.values())), np.stack([image for key, image in test.items() if key not in train]))


def load_sliver(path: Path) -> Faces:
    """A few dozen drawings from a committed `.npz` (`images`), the last quarter held out."""
    with np.load(path) as file:
        images: NDArray[np.uint8] = file["images"]
    return Faces(images[: len(images) * 3 // 4], images[len(images) * 3 // 4 :])
