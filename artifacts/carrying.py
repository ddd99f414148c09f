"""What a translation is not asked to translate: addresses, tags, `{placeholders}`, emoji, names, numbers and dates.

A model reads a stand-in for each, a character of its own, and the translation has in its place what it stands for: as
it is, or as the other language writes it. Training and services read sentences alike. The idea is that of placeholders
for rare words (Luong et al., "Addressing the Rare Word Problem in Neural Machine Translation", 2015).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

# Characters of private use: no tokenizer cuts them, no text has a right to them.
THINGS, NAMES, NUMBERS, DATES = (tuple(map(chr, range(first, first + 6))) for first in (0xE000, 0xE010, 0xE020, 0xE030))
STAND_INS = THINGS + NAMES + NUMBERS + DATES

_PRIVATE = "[\ue000-\uf8ff]"
_EMOJI = "[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\ufe0f\u200d]+"
EDGE = re.compile(rf"(?:\s|{_EMOJI})+")  # what begins or ends a sentence and is no part of it

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?:Jan(?:uary|\.)?|Feb(?:ruary|\.)?|Mar(?:ch|\.)?|Apr(?:il|\.)?|May|June?|July?|Aug(?:ust|\.)?"
    r"|Sept?(?:ember|\.)?|Oct(?:ober|\.)?|Nov(?:ember|\.)?|Dec(?:ember|\.)?)"
)
_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"),
    *("twentieth", "twenty-first", "twenty-second", "twenty-third", "twenty-fourth", "twenty-fifth", "twenty-sixth"),
    *("twenty-seventh", "twenty-eighth", "twenty-ninth", "thirtieth", "thirty-first"),
)
_DAY = rf"(?:(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?|{'|'.join(sorted(_ORDINALS, key=len, reverse=True))})"
_YEAR = r"(?:1\d|20)\d\d"
_DATE = (
    rf"\b{_MONTH} (?:the )?{_DAY}(?:,? {_YEAR})?(?![\w-])|(?:\bthe )?\b{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?(?!\w)"
    rf"|\b{_MONTH} {_YEAR}\b"
    # A number is a year by what is before it, unless it counts what is after it.
    rf"|(?:(?<=\b[Ii]n )|(?<=\b[Ss]ince )|(?<=\buntil )|(?<=\bbefore )|(?<=\bafter )|(?<=\byear )|(?<=\bis )|(?<='s ))"
    rf"{_YEAR}(?![\w%]|[.,:/-]\d| \w+s\b| percent)"
)
_NAME = r"\w*[A-Z]\w*(?:[-’'][A-Z]\w*)*"
# Elements of HTML within a sentence, whole; and addresses, which end before the stop of the sentence.
_CARRIED = re.compile(
    rf"(?P<thing><(?P<element>\w+)[^<>]*>[^<>]*</(?P=element)>|</?\w+[^<>]*>|\{{\{{?[\w.]+\}}?\}}"
    rf"|(?:https?://|www\.)\S*[\w/]|(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+|%\(?\w*\)?[sd]\b|{_EMOJI}|{_PRIVATE})"
    rf"|(?P<date>{_DATE})|(?P<number>(?<!\w)(?:\d+(?:[.,:/-]\d+)+|\d{{2,}})(?!\w))|(?P<names>{_NAME}(?: {_NAME})*)"
)
_KINDS = {"thing": THINGS, "date": DATES, "number": NUMBERS, "names": NAMES}
_ADDRESS = re.compile(r"(?:https?://|www\.)\S*|\S+@\S+")
_STAND_IN = re.compile(f"[{''.join(STAND_INS)}]")
_WORD = re.compile(r"\S+")
_STOPS = "。！？!?.」』"


@dataclass(frozen=True)
class Names:
    """What a translator knows of names.

    Args:
        chinese: names, as English writes them, with what Chinese has for them.
        words: in lower case, those that the model has learned; any other with a capital is a name.
    """

    chinese: Mapping[str, str] = field(default_factory=dict)
    words: Set[str] = frozenset()

    @classmethod
    def of(cls, content: bytes) -> Names:
        """Those that `content` holds, as `content` writes it.

        Raises:
            ValueError: it is no such content.
        """
        try:
            read = json.loads(content)
            return cls(dict(read["chinese"]), frozenset(read["words"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not names: {error}") from None

    def content(self) -> bytes:
        """As JSON, in order."""
        ordered = {"chinese": dict(sorted(self.chinese.items())), "words": sorted(self.words)}
        return json.dumps(ordered, ensure_ascii=False).encode()

    def translated(self, word: str, opens: bool) -> str | None:
        """What a translation has for a word with a capital, if it is a name: Chinese, or the word as it is.

        Args:
            opens: whether it is a sentence's first word, which has a capital whatever it is.
        """
        learned = word.lower() in self.words
        if word in self.chinese:
            return None if opens and learned else self.chinese[word]
        return None if learned or opens or len(word) < 2 else word


@dataclass(frozen=True, slots=True)
class Carried:
    """Characters `start` to `end` of a text, what the translation has for them, and the stand-ins for such."""

    start: int
    end: int
    meaning: str
    stand_ins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A sentence as a model reads it.

    Args:
        text: with stand-ins, in Unicode's normal form KC.
        origins: of each character, and of the end, where it comes from in the sentence.
        meanings: of each stand-in, in the order of the sentence.
    """

    text: str
    origins: tuple[int, ...]
    meanings: Mapping[str, str]

    @property
    def is_words(self) -> bool:
        """Whether there is anything to translate."""
        return any(c.isalnum() or c in NAMES or c in DATES for c in self.text)

    def restored(self, translation: str) -> str:
        """A translation with each meaning once: at its first stand-in, or at the end if it lacks one."""
        missing = set(self.meanings)
        once = _STAND_IN.sub(lambda match: match[0] if _take(match[0], missing) else "", translation)
        restored = _STAND_IN.sub(lambda match: _spaced(match, self.meanings[match[0]]), once)
        words = restored.rstrip(_STOPS)
        left = [meaning for stand_in, meaning in self.meanings.items() if stand_in in missing]
        return " ".join([words, *left]) + restored[len(words) :] if left else restored

    def keeps(self, translation: str) -> bool:
        """Whether a translation has each stand-in once, and no other."""
        return sorted(_STAND_IN.findall(translation)) == sorted(self.meanings)


def _take(item: str, items: set[str]) -> bool:
    """Take an item from those, if it is there."""
    taken = item in items
    items.discard(item)
    return taken


def _spaced(place: re.Match[str], meaning: str) -> str:
    """What stands in a place, with spaces around an address, which would seem to go on otherwise."""
    if not _ADDRESS.fullmatch(meaning):
        return meaning
    before, after = place.string[: place.start()][-1:], place.string[place.end() :][:1]
    return " " * before.isalnum() + meaning + " " * (after.isalnum() or after in STAND_INS)


def reading(sentence: str, names: Names) -> Reading:
    """How a model reads a sentence."""
    text, places = _normal(sentence)
    parts = [
        replace(part, meaning=sentence[places[part.start] : places[part.end]])
        if part.meaning == text[part.start : part.end]
        else part
        for part in carried(text, names)
    ]
    read_text, origins, meanings = read(text, parts)
    return Reading(read_text, tuple(places[origin] for origin in origins), meanings)


def read(text: str, parts: Iterable[Carried]) -> tuple[str, list[int], dict[str, str]]:
    """A text with stand-ins for these parts of it, as far as there are enough of their kind; where each of its
    characters, and its end, comes from; and what the stand-ins mean."""
    unused = {stand_ins: iter(stand_ins) for stand_ins in _KINDS.values()}
    written, origins, meanings, position = "", list[int](), dict[str, str](), 0
    for part in parts:
        if (stand_in := next(unused[part.stand_ins], None)) is not None:
            written += text[position : part.start] + stand_in
            origins += range(position, part.start + 1)
            meanings[stand_in] = part.meaning
            position = part.end
    return written + text[position:], [*origins, *range(position, len(text) + 1)], meanings


def carried(text: str, names: Names) -> Iterator[Carried]:
    """The parts of a text in normal form KC that a translation carries, in order."""
    is_shouted = text.isupper() and " " in text.strip()
    for match in _CARRIED.finditer(text):
        (start, end), kind = match.span(), str(match.lastgroup)
        if kind != "names":
            yield Carried(start, end, _chinese_date(match[0]) if kind == "date" else match[0], _KINDS[kind])
        elif not is_shouted:
            opens = not any(c.isalnum() for c in text[:start])
            yield from _names(text, start, end, names, opens)


def _names(text: str, start: int, end: int, names: Names, opens: bool) -> Iterator[Carried]:
    """The names among words with capitals, those that follow one another as one."""
    words = [match.span() for match in _WORD.finditer(text, start, end)]
    run: list[tuple[int, int, str]] = []
    while words:
        for count in range(len(words), 0, -1):
            first, last = words[0][0], words[count - 1][1]
            phrase = text[first:last]
            meaning = names.translated(phrase, opens) if count == 1 else names.chinese.get(phrase)
            if meaning is not None or count == 1:
                break
        if meaning is not None:
            run.append((first, last, meaning))
        elif run:
            yield _joined(text, run)
            run = []
        words, opens = words[count:], False
    if run:
        yield _joined(text, run)


def _joined(text: str, run: Sequence[tuple[int, int, str]]) -> Carried:
    """Names that follow one another: in Chinese with dots between them if each has a Chinese form."""
    start, end = run[0][0], run[-1][1]
    is_chinese = all(not meaning.isascii() for _, _, meaning in run)
    return Carried(start, end, "·".join(m for *_, m in run) if is_chinese else text[start:end], NAMES)


def _chinese_date(date: str) -> str:
    """A date in English as Chinese writes it, e.g. 2025年3月14日."""
    year = month = day = ""
    for word in re.findall(r"[a-z]+(?:-[a-z]+)?|\d+", date.lower()):
        if word[:3] in _MONTHS and word not in _ORDINALS:
            month = f"{_MONTHS.index(word[:3]) + 1}月"
        elif word in _ORDINALS:
            day = f"{_ORDINALS.index(word) + 1}日"
        elif word.isdigit():
            year, day = (f"{word}年", day) if len(word) == 4 else (year, f"{int(word)}日")
    return year + month + day


def _normal(sentence: str) -> tuple[str, Sequence[int]]:
    """A sentence in normal form KC, character by character, and where each, and its end, comes from."""
    if unicodedata.is_normalized("NFKC", sentence):
        return sentence, range(len(sentence) + 1)
    pairs = [(c, i) for i, character in enumerate(sentence) for c in unicodedata.normalize("NFKC", character)]
    return "".join(c for c, _ in pairs), [*(i for _, i in pairs), len(sentence)]
