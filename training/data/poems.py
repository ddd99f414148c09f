"""Tang poems: some 57,000 of the Complete Tang Poems (全唐詩), in Traditional characters, from npm's `chinese-poetry`.

The fixed split is by the SHA-1 of the poem's text, modulo 50: 0 is test, 1 is validation. Poems with characters that
are lost in the sources, or with editors' notes, are left out; of long poems only the beginning counts.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from artifacts.verses import FORMS, MIXED, STOPS, line_lengths
from training.data.fetch import Npm

SOURCE = Npm(
    name="chinese-poetry",
    version="2.0.1",
    sha256="25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
    licence="MIT",
)
LONGEST, LONGEST_TITLE = 160, 20
PARTS, TEST, VALIDATION = 50, 0, 1

_POEM = re.compile(rf"[\u3400-\u4dbf\u4e00-\u9fff{STOPS}]+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]+")


@dataclass(frozen=True)
class Poem:
    """`text` is whole lines with their punctuation; `complete` says whether it is all of the poem."""

    title: str
    text: str
    complete: bool

    @property
    def form(self) -> str:
        lengths = line_lengths(self.text)
        for form, (length, lines) in FORMS.items():
            if set(lengths) == {length} and (lines == 0 or (self.complete and lines == len(lengths))):
                return form
        return MIXED


@dataclass(frozen=True)
class Poems:
    train: tuple[Poem, ...]
    validation: tuple[Poem, ...]
    test: tuple[Poem, ...]


def load() -> Poems:
    """All poems, fetched on first use (85 MB)."""
    files = (SOURCE.fetch() / "package" / "dist" / "quantangshi").glob("poet.tang.*.json")
    poems = (poem for file in sorted(files) for poem in read(json.loads(file.read_text())))
    parts = {poem: part(poem) for poem in poems}  # in the sources' order, so neighbours are mostly one author's
    return Poems(
        train=tuple(poem for poem, number in parts.items() if number not in (TEST, VALIDATION)),
        validation=tuple(poem for poem, number in parts.items() if number == VALIDATION),
        test=tuple(poem for poem, number in parts.items() if number == TEST),
    )


def part(poem: Poem) -> int:
    """Which fiftieth of the data a poem belongs to."""
    return int(hashlib.sha1(poem.text.encode(), usedforsecurity=False).hexdigest(), 16) % PARTS


def load_sliver(path: Path) -> Poems:
    """A few hundred poems of a committed `.tsv` (title, text): every tenth is test, the next validation."""
    with path.open(newline="") as file:
        poems = [Poem(title, text, complete=True) for title, text in csv.reader(file, delimiter="\t")]
    rest = tuple(p for i, p in enumerate(poems) if i % 10 > 1)
    return Poems(rest, tuple(poems[1::10]), tuple(poems[::10]))


def read(entries: Iterable[dict[str, object]]) -> Iterable[Poem]:
    """The poems of one file that can be read in full."""
    for entry in entries:
        paragraphs = [str(p) for p in entry["paragraphs"]]  # type: ignore[attr-defined]
        whole = "".join(paragraphs)
        if not _POEM.fullmatch(whole) or whole[-1] not in STOPS:
            continue
        text = ""
        for paragraph in paragraphs:
            if len(text) + len(paragraph) > LONGEST:
                break
            text += paragraph
        if text and text[-1] in STOPS:
            title = "".join(_HAN.findall(str(entry["title"])))[:LONGEST_TITLE]
            yield Poem(title, text, complete=text == whole)
