"""What a translation has unchanged: addresses, tags, `{placeholders}`, numbers and emoji.

The model never learned to copy them, so it reads a stand-in for each, a word or number that it does copy, and the
translation gets the original in the stand-in's place.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_EMOJI = "[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\ufe0f\u200d]+"
# Elements of HTML within a sentence, whole; and addresses, which end before the stop of the sentence.
_CARRIED = re.compile(
    rf"<(?P<element>\w+)[^<>]*>[^<>]*</(?P=element)>|</?\w+[^<>]*>|\{{\{{?[\w.]+\}}?\}}|(?:https?://|www\.)\S*[\w/]"
    rf"|(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+|%\(?\w*\)?[sd]\b|{_EMOJI}"
    r"|(?<!\w)(?P<number>\d+(?:[.,:/-]\d+)+|\d{2,})(?!\w)"
)
EDGE = re.compile(rf"(?:\s|{_EMOJI})+")  # what begins or ends a sentence and is no part of it
# The model copies these better than any other that was tried.
_NAMES, _NUMBERS = ("XML", "SQL", "URL", "HTML", "Calc", "Writer"), ("20", "12", "30", "10")
_STOPS = "。！？!?.」』"


@dataclass(frozen=True, slots=True)
class Reading:
    """A sentence as a model reads it.

    Args:
        text: with stand-ins, in Unicode's normal form KC.
        origins: of each character, and of the end, where it comes from in the sentence.
        carried: each stand-in with what it stands for.
    """

    text: str
    origins: tuple[int, ...]
    carried: tuple[tuple[str, str], ...]

    @property
    def is_words(self) -> bool:
        """Whether there is anything to translate."""
        bare = self.text
        for stand_in, _ in self.carried:
            bare = bare.replace(stand_in, "")
        return any(character.isalnum() for character in bare)

    def restored(self, translation: str) -> str:
        """A translation with each original once: at its first stand-in, or at the end if it lacks one."""
        for stand_in, original in self.carried:
            parts = _whole(stand_in).split(translation)
            if len(parts) == 1:
                words = translation.rstrip(_STOPS)
                parts = [f"{words} ", translation[len(words) :]]
            translation = parts[0] + original + "".join(parts[1:])
        names = "|".join(name for name, _ in self.carried if name in _NAMES)
        # What is left is a stand-in that the model garbled: no original has its letters.
        return re.sub(f"[A-Za-z]*(?:{names})[A-Za-z]*", "", translation) if names else translation

    def keeps(self, translation: str) -> bool:
        """Whether a translation has each stand-in once."""
        return all(len(_whole(stand_in).findall(translation)) == 1 for stand_in, _ in self.carried)


def reading(sentence: str) -> Reading:
    """How a model reads a sentence."""
    names = (name for name in _NAMES if name.lower() not in sentence.lower())
    numbers = iter(_NUMBERS)
    text, origins, carried, position = "", list[int](), list[tuple[str, str]](), 0
    for match in _CARRIED.finditer(sentence):
        stand_in = next(numbers if match["number"] else names, None)
        if stand_in is not None:
            plain, places = _normal(sentence, position, match.start())
            text, origins = text + plain + stand_in, origins + places + [match.start()] * len(stand_in)
            carried.append((stand_in, match[0]))
            position = match.end()
    plain, places = _normal(sentence, position, len(sentence))
    return Reading(text + plain, (*origins, *places, len(sentence)), tuple(carried))


def without_loops(translation: str, source: str) -> str:
    """A translation in which what comes three times or more in a row comes once, unless the source repeats a word."""
    return translation if _REPEATED_WORD.search(source) else _LOOP.sub(r"\1", translation)


_LOOP = re.compile(r"([^\W\d]{1,8}?|[^\W\d]{1,8}?[，、])\1{2,}")
_REPEATED_WORD = re.compile(r"\b(\w+)\W+\1\b", re.IGNORECASE)


def _normal(sentence: str, start: int, end: int) -> tuple[str, list[int]]:
    """Part of a sentence in normal form KC, and where each of its characters comes from."""
    if unicodedata.is_normalized("NFKC", sentence[start:end]):
        return sentence[start:end], list(range(start, end))
    pairs = list(_characters(sentence, start, end))
    return "".join(character for character, _ in pairs), [place for _, place in pairs]


def _characters(sentence: str, start: int, end: int) -> Iterator[tuple[str, int]]:
    for place in range(start, end):
        for character in unicodedata.normalize("NFKC", sentence[place]):
            yield character, place


def _whole(stand_in: str) -> re.Pattern[str]:
    """A stand-in that is no part of a longer number or word."""
    return re.compile(rf"(?<![0-9A-Za-z]){stand_in}(?![0-9A-Za-z])")
