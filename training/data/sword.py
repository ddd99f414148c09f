"""Bibles as Debian's `sword-text-*` packages hold them: verse by verse, without notes and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pysword.modules import SwordModules

from training.data.fetch import Debian

KJV = Debian(
    name="sword-text-kjv",
    version="14.3-1",
    sha256="9f463f28ce665f6f528fc723179722bced880a4c5485f7a41bf742838315de57",
    licence="public domain (King James Version)",
)
WEB = Debian(
    name="sword-text-web",
    version="426.0-1",
    sha256="930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1",
    licence="public domain (World English Bible)",
)

# The protestant canon, as both packages name its books.
BOOKS = (
    *("Genesis", "Exodus", "Leviticus", "Numbers", "Deuteronomy", "Joshua", "Judges", "Ruth", "I Samuel", "II Samuel"),
    *("I Kings", "II Kings", "I Chronicles", "II Chronicles", "Ezra", "Nehemiah", "Esther", "Job", "Psalms"),
    *("Proverbs", "Ecclesiastes", "Song of Solomon", "Isaiah", "Jeremiah", "Lamentations", "Ezekiel", "Daniel"),
    *("Hosea", "Joel", "Amos", "Obadiah", "Jonah", "Micah", "Nahum", "Habakkuk", "Zephaniah", "Haggai", "Zechariah"),
    *("Malachi", "Matthew", "Mark", "Luke", "John", "Acts", "Romans", "I Corinthians", "II Corinthians", "Galatians"),
    *("Ephesians", "Philippians", "Colossians", "I Thessalonians", "II Thessalonians", "I Timothy", "II Timothy"),
    *("Titus", "Philemon", "Hebrews", "James", "I Peter", "II Peter", "I John", "II John", "III John", "Jude"),
    "Revelation of John",
)

_NOTES = re.compile(r"<(note|title)\b.*?</\1>", re.DOTALL)
_BREAKS = re.compile(r"<(?:l|lb|lg|p|div|chapter)\b[^>]*>")
_TAGS = re.compile(r"<[^>]*>")


@dataclass(frozen=True, order=True)
class Reference:
    """A verse; `book` is a position in `BOOKS`."""

    book: int
    chapter: int
    verse: int

    def __str__(self) -> str:
        return f"{BOOKS[self.book]} {self.chapter}:{self.verse}"


def read(package: Debian) -> dict[Reference, str]:
    """Every verse that has text, in order; fetched on first use."""
    modules = SwordModules(str(package.fetch() / "usr" / "share" / "sword"))
    (name,) = modules.parse_modules()
    bible = modules.get_bible_from_module(name)
    # A block is a whole book, and the library unpacks it again for every verse.
    bible._decompressed_text = lru_cache(2)(bible._decompressed_text)
    structure = {book.name: book for testament in bible.get_structure().get_books().values() for book in testament}
    verses = {}
    for number, book in enumerate(BOOKS):
        for chapter, length in enumerate(structure[book].chapter_lengths, start=1):
            texts = bible.get_iter(books=[book], chapters=[chapter], clean=False)
            for verse, text in zip(range(1, length + 1), texts, strict=False):
                if plain := without_markup(text):
                    verses[Reference(number, chapter, verse)] = plain
    return verses


def without_markup(text: str) -> str:
    """The words of a verse in OSIS markup: a note or a line's end parts two words, other tags do not."""
    for pattern, replacement in ((_NOTES, " "), (_BREAKS, " "), (_TAGS, "")):
        text = pattern.sub(replacement, text)
    return re.sub(r"\s+([,.;:?!’”])", r"\1", re.sub(r"\s+", " ", text)).strip()
