"""Where sentences begin and end."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from artifacts.carrying import EDGE, Names, Reading, reading

# A stop, with the quotes and brackets that close after it, before a space; or the end of a line.
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|\n")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Rev|Gen|Col|Capt|Lt|vs|etc|cf|No|Fig|Vol|approx|Inc|Ltd|Co|e\.g|i\.e"
    r"|[ap]\.m|U\.S|U\.K))\.$"
)
# Elements of HTML that are no part of a sentence: paragraphs, lists, tables.
_BLOCK = re.compile(
    r"</?(?:p|div|h[1-6]|li|ul|ol|dl|dt|dd|table|tr|td|th|br|hr|section|article|body|html)\b[^<>]*>", re.I
)
PAUSE = re.compile(r"[,;:—](?=\s)|\s")

_CLAUSE = re.compile(
    r",\s+(?=(?:and|but|so|because|which|who|when|while|if|although|though|or|then|for|that|as|after|before|until|since"
    r"|where)\b)|[;:]\s+"
)
_WORD = re.compile(r"\S+")
# In words. Of validation sentences this long or longer, BLEU is higher if clauses are translated one by one.
LONG, SHORTEST_CLAUSE = 25, 4
TOKEN_CHARACTERS = 20  # more than any token has

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reader:
    """How a model reads: the names that it knows, its tokenizer, and how many tokens it takes."""

    names: Names
    tokenizer: Tokenizer
    most: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """Code points `start` to `end` of a text, how the model reads them, and the tokens of that.

    Args:
        goes_on: whether it is a clause of a sentence whose next follows.
    """

    start: int
    end: int
    reading: Reading
    encoding: Encoding
    goes_on: bool

    @classmethod
    def of(cls, text: str, start: int, end: int, reader: Reader) -> Sentence:
        """The sentence, or clause of one, that is there."""
        read = reading(text[start:end], reader.names)
        goes_on = text[end - 1] in ",;:" and text[end : end + 2].strip() != ""
        return cls(start, end, read, reader.tokenizer.encode(read.text), goes_on)

    def place(self, token: int) -> Span:
        """Where in the text a token comes from."""
        first, last = self.encoding.offsets[token]
        return self.start + self.reading.origins[first], self.start + self.reading.origins[last]


def split(text: str, reader: Reader) -> list[Sentence]:
    """The sentences of `text` that have words; a long one clause by clause, one of too many tokens cut."""
    return [
        part
        for block in _blocks(text)
        for sentence in _sentences(text, *block)
        for clause in _clauses(text, *sentence)
        for part in _cut(text, clause, reader)
        if part.reading.is_words and not all(part.encoding.special_tokens_mask)
    ]


def between(text: str, start: int, end: int) -> str:
    """What a translation has of the part of `text` that is in no sentence: tags, emoji and line breaks."""
    return re.sub(r"[^\S\n]*\n[^\S\n]*", "\n", text[start:end]).strip(" \t")


def _blocks(text: str) -> Iterator[Span]:
    """What is between the tags of a page."""
    start = 0
    for tag in _BLOCK.finditer(text):
        yield start, tag.start()
        start = tag.end()
    yield start, len(text)


def _sentences(text: str, start: int, end: int) -> Iterator[Span]:
    for match in SENTENCE_END.finditer(text, start, end):
        stop, following = match[0], text[match.end() : end].lstrip()[:1]
        quoted = stop[-1] not in ".!?…\n"  # “Why?” she asked.
        goes_on = following.islower() and (quoted or stop == ".")
        if not goes_on and not (stop == "." and _ABBREVIATION.search(text, start, match.end())):
            yield from _trimmed(text, start, match.end())
            start = match.end()
    yield from _trimmed(text, start, end)


def _clauses(text: str, start: int, end: int) -> Iterator[Span]:
    """The clauses of a long sentence, else all of it."""
    words = [match.start() for match in _WORD.finditer(text, start, end)]
    if len(words) >= LONG:
        begun = 0  # words before the clause
        for match in _CLAUSE.finditer(text, start, end):
            ended = bisect_left(words, match.end())
            if min(ended - begun, len(words) - ended) >= SHORTEST_CLAUSE:
                yield from _trimmed(text, start, match.end())
                start, begun = match.end(), ended
    yield from _trimmed(text, start, end)


def _cut(text: str, span: Span, reader: Reader) -> Iterator[Sentence]:
    start, end = span
    while start < end:
        stop = min(end, start + reader.most * TOKEN_CHARACTERS)  # or a text without pauses would be read for each piece
        sentence = Sentence.of(text, start, stop, reader)
        fits = len(sentence.encoding.ids) <= reader.most
        if fits and stop == end:
            yield sentence
            return
        # The last pause before what is too much; without one, there.
        limit = stop if fits else sentence.place(reader.most - 2)[1]
        pauses = [match.end() for match in PAUSE.finditer(text, start + 1, limit)]
        strong = [pause for pause in pauses if not text[pause - 1].isspace()]
        middle = (strong or pauses or [limit])[-1]
        for first in _trimmed(text, start, middle):
            yield Sentence.of(text, *first, reader)
        start = next(_trimmed(text, middle, end), (end, end))[0]


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    """The span without spaces and emoji around it, if anything is left."""
    while edge := EDGE.match(text, start, end):
        start = edge.end()
    while start < end and (last := EDGE.fullmatch(text, end - 1, end)):
        end = last.start()
    if start < end:
        yield start, end
