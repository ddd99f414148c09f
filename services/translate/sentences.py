"""Where sentences begin and end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

# A stop, with the quotes and brackets that close after it, before a space; or the end of a line.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|\n")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Rev|Gen|Col|Capt|Lt|vs|etc|cf|No|Fig|Vol|approx|Inc|Ltd|Co|e\.g|i\.e"
    r"|[ap]\.m|U\.S|U\.K))\.$"
)
_PAUSE = re.compile(r"[,;:—](?=\s)|\s")

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sentence:
    """Code points `start` to `end` of a text, and its tokens, whose offsets count from `start`."""

    start: int
    end: int
    encoding: Encoding


def split(text: str, tokenizer: Tokenizer, most: int) -> list[Sentence]:
    """The sentences of `text` that have tokens; one of more than `most` tokens is cut at pauses."""
    return [part for span in _sentences(text) for part in _cut(text, span, tokenizer, most)]


def _sentences(text: str) -> Iterator[Span]:
    start = 0
    for match in _END.finditer(text):
        stop, following = match[0], text[match.end() :].lstrip()[:1]
        quoted = stop[-1] not in ".!?…\n"  # “Why?” she asked.
        goes_on = following.islower() and (quoted or stop == ".")
        if not goes_on and not (stop == "." and _ABBREVIATION.search(text, start, match.end())):
            yield from _trimmed(text, start, match.end())
            start = match.end()
    yield from _trimmed(text, start, len(text))


def _cut(text: str, span: Span, tokenizer: Tokenizer, most: int) -> Iterator[Sentence]:
    start, end = span
    while start < end:
        encoding = tokenizer.encode(text[start:end])
        if len(encoding.ids) <= most:
            if not all(encoding.special_tokens_mask):
                yield Sentence(start, end, encoding)
            return
        # The last pause before what is too much; without one, there.
        limit = start + encoding.offsets[most - 2][1]
        pauses = [match.end() for match in _PAUSE.finditer(text, start + 1, limit)]
        strong = [pause for pause in pauses if not text[pause - 1].isspace()]
        middle = (strong or pauses or [limit])[-1]
        for first in _trimmed(text, start, middle):
            yield Sentence(*first, tokenizer.encode(text[slice(*first)]))
        start = next(_trimmed(text, middle, end), (end, end))[0]


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    """The span without spaces around it, if anything is left."""
    part = text[start:end]
    if stripped := part.strip():
        start += part.index(stripped)
        yield start, start + len(stripped)
