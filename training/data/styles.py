"""English in two styles, of which training sees no pair: verses of the King James Version (1611/1769) and of the World
English Bible (2000), and everyday sentences of Tatoeba.

A chapter teaches one style alone, which its SHA-1 chooses: the other version's text of it is never read. Verses are
held out of both styles by the SHA-1 of their reference, modulo 20: 0 is test, 1 is validation. Only the test split has
verses as pairs; a verse of validation is watched in either version, and never beside the other.

Everyday sentences are those that `translator_en_zh` trains on, which neither Bible has the words of; in training they
are modern.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from artifacts.card import DataSource
from training.data import parallel, sword
from training.data.hashing import bucket
from training.data.sword import Reference

STYLES = ARCHAIC, MODERN = ("archaic", "modern")
PARTS, TEST, VALIDATION = 20, 0, 1

_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "¶": None})

Texts = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Styles:
    """Texts by style.

    Args:
        verses: of training, no verse in both styles.
        everyday: modern sentences of training.
        validation: verses by style, in no order that pairs them.
        test: verses by style, the i-th of each the same verse.
    """

    verses: Texts
    everyday: tuple[str, ...]
    validation: Texts
    test: Texts

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """What the card says about the data."""
        bibles = [
            source.card_entry(*(len(part[style]) for part in (self.verses, self.validation, self.test)))
            for source, style in ((sword.KJV, ARCHAIC), (sword.WEB, MODERN))
        ]
        everyday = parallel.TATOEBA.card_entry(len(self.everyday), 0, 0)
        return (*bibles, everyday, parallel.TATOEBA_LATER.card_entry(0, 0, 0))

    @property
    def train(self) -> Texts:
        """Everything that training sees, by style."""
        return {ARCHAIC: self.verses[ARCHAIC], MODERN: (*self.verses[MODERN], *self.everyday)}


def load() -> Styles:
    """Both Bibles and the everyday sentences, fetched on first use (8 MB)."""
    bibles = {ARCHAIC: sword.read(sword.KJV), MODERN: sword.read(sword.WEB)}
    return split(bibles, tuple(dict.fromkeys(map(plain, parallel.everyday_english()))))


def load_sliver(path: Path) -> Styles:
    """Some verses of each style, everyday sentences, and some verses in both."""
    stored = json.loads(path.read_text())
    verses, test = ({style: tuple(stored[part][style]) for style in STYLES} for part in ("verses", "test"))
    return Styles(verses, tuple(stored["everyday"]), test, test)


def split(bibles: Mapping[str, Mapping[Reference, str]], everyday: tuple[str, ...]) -> Styles:
    """The fixed split. What is word for word a verse that is held out is not trained on."""
    texts = {style: {r: plain(text) for r, text in bible.items()} for style, bible in bibles.items()}
    parts = {r: bucket(str(r), PARTS) for r in texts[ARCHAIC] if r in texts[MODERN]}
    test = {style: tuple(own[r] for r, part in parts.items() if part == TEST) for style, own in texts.items()}
    held_out = {text for own in texts.values() for r, text in own.items() if parts.get(r, TEST) in (TEST, VALIDATION)}
    verses, validation = {}, {}
    for style, own in texts.items():
        mine = [r for r in parts if parts[r] not in (TEST, VALIDATION) and _teaches(r) == style]
        verses[style] = tuple(text for r in mine if (text := own[r]) not in held_out)
        validation[style] = tuple(sorted(own[r] for r, part in parts.items() if part == VALIDATION))
    return Styles(verses, everyday, validation, test)


def plain(text: str) -> str:
    """A text with straight quotes and apostrophes, as people type them."""
    return text.translate(_PLAIN).strip()


def _teaches(reference: Reference) -> str:
    """The style that a verse's chapter teaches."""
    return STYLES[bucket(f"{sword.BOOKS[reference.book]} {reference.chapter}", len(STYLES))]
