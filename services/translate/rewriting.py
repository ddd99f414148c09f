"""Texts in another style, line by line: what the model reads, the greedy search, and what comes of it as messages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from artifacts.card import RewritingPreprocessing
from lectern.v1 import translate_pb2 as pb
from services import pools
from services.codecs.text import INLINE_CHARACTERS, load_tokenizer, special_id
from services.codecs.timing import decoded
from services.errors import InvalidArgument
from services.runtime.repository import Model
from services.runtime.search import Prompt, Rows
from services.translate.sentences import PAUSE, SENTENCE_END, TOKEN_CHARACTERS

UNKNOWN, END = "<unk>", "</s>"
SPACE = "▁"  # as tokens have it
OPENING = "\"'(“‘"


@dataclass(frozen=True, slots=True)
class Piece:
    """Code points `start` to `end` of a text that are rewritten at once.

    Args:
        ids: of the tokens, the end's the last.
        places: where in the text each token is from.
        left_out: the characters that there is no token for.
    """

    start: int
    end: int
    ids: Sequence[int]
    places: Sequence[tuple[int, int]]
    left_out: str


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was written, the share of its probability that is copying, and the place that it would be copied
    from, counted in the source's tokens."""

    id: int
    copied: float
    source: int


class Rewriting:
    """The greedy search for one piece: the likeliest token at each step, to the end or the `longest` text. A `Search`
    of `services.runtime.search`.

    Args:
        start: the token of the style.
    """

    width = 1
    length = 0
    past: Mapping[str, NDArray[Any]] = {}
    constants: Mapping[str, NDArray[Any]] = {}

    def __init__(self, prompt: Prompt, *, start: int, end: int, longest: int) -> None:
        self.prompt = prompt
        self.first = Rows([0], {"tokens": np.array([[start]])})
        self.done = False
        self.tokens: list[Token] = []
        self._end = end
        self._longest = longest

    def begin(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.constants = {**outputs, "memory_length": self.prompt.inputs["length"][0]}

    def advance(self, outputs: Mapping[str, NDArray[Any]]) -> Rows | None:
        token = int(outputs["ids"][0, 0])
        self.done = token == self._end
        if not self.done:
            self.tokens.append(Token(token, float(outputs["copied"][0, 0]), int(outputs["attention"][0].argmax())))
            self.done = len(self.tokens) >= self._longest
        return None if self.done else Rows([0], {"tokens": np.array([[token]])})


class Rewriter:
    """A model that rewrites, with the style that a request asks for.

    Raises:
        InvalidArgument: the model does not write in this style.
    """

    def __init__(self, model: Model, kind: RewritingPreprocessing, style: pb.Style) -> None:
        name = pb.Style.Name(style).removeprefix("STYLE_").lower() if style in pb.Style.values() else ""
        if name not in kind.styles:
            known = ", ".join(f"STYLE_{style.upper()}" for style in kind.styles)
            said = "is not given" if style == pb.STYLE_UNSPECIFIED else f"is {style}"
            raise InvalidArgument.field("style", f"{said}; {model.card.name} writes in: {known}")
        self._graph = model.graphs["forward"]
        self._tokenizer = load_tokenizer(model.assets[kind.tokenizer])
        self._most = kind.max_tokens
        self._start, self._end = (special_id(self._tokenizer, token) for token in (kind.styles[name], END))

    async def pieces(self, text: str) -> list[Piece]:
        """What of a text is rewritten at once."""
        started, inline = time.monotonic(), len(text) <= INLINE_CHARACTERS
        cut = await pools.inline_or_codecs(inline, pieces, text, self._tokenizer, self._most)
        decoded("text", started)
        return cut

    def search(self, piece: Piece) -> Rewriting:
        """The search for what stands for a piece, which the decoder has the encoder read first."""
        count = len(piece.ids)
        prompt = Prompt(self._graph, {"tokens": np.array([piece.ids]), "length": np.array([[count]])})
        return Rewriting(prompt, start=self._start, end=self._end, longest=min(self._most - 1, 2 * count + 10))

    async def result(self, text: str, searched: Sequence[tuple[Piece, Rewriting]]) -> pb.RewrittenText:
        """The answer for one text, whose pieces have been searched."""
        return await pools.inline_or_codecs(len(text) <= INLINE_CHARACTERS, result, text, searched, self._tokenizer)


def pieces(text: str, tokenizer: Tokenizer, most: int) -> list[Piece]:
    """The lines of a text that have words, those of more than `most` tokens cut at the last sentence's end that fits,
    or else the last pause."""
    found, start = list[Piece](), 0
    for line in text.splitlines(keepends=True):
        found += _cut(text, start, start + len(line), tokenizer, most)
        start += len(line)
    return found


def _cut(text: str, start: int, end: int, tokenizer: Tokenizer, most: int) -> Iterator[Piece]:
    while start < end:
        stop = min(end, start + most * TOKEN_CHARACTERS)  # or a long line would be read once for each piece
        piece = _piece(text, start, stop, tokenizer)
        fits = len(piece.ids) <= most
        if not fits or stop < end:
            limit = stop if fits else max(piece.places[most - 2][1], start + 1)
            ends, pauses = ([m.end() for m in p.finditer(text, start + 1, limit)] for p in (SENTENCE_END, PAUSE))
            stop = max(ends or pauses or [limit])
            piece = _piece(text, start, stop, tokenizer)
        if any(character.isalnum() for character in text[start:stop]) and len(piece.ids) > 1:
            yield piece
        start = stop


def _piece(text: str, start: int, stop: int, tokenizer: Tokenizer) -> Piece:
    inner = text[start:stop].strip()
    first = start + text[start:stop].index(inner)
    encoding, unknown = tokenizer.encode(inner), tokenizer.token_to_id(UNKNOWN)
    ids, offsets = encoding.ids, encoding.offsets  # each a new list
    known = [i for i, number in enumerate(ids) if number != unknown]
    places = [_place(text, first + start, first + end) for start, end in offsets]
    lacking = "".join(inner[slice(*offsets[i])] for i, number in enumerate(ids) if number == unknown)
    return Piece(
        first,
        first + len(inner),
        [ids[i] for i in known],
        [places[i] for i in known],
        "".join(dict.fromkeys(lacking)).strip(),
    )


def _place(text: str, start: int, end: int) -> tuple[int, int]:
    """Where a token's letters are: before them it may have a space, or a quote that the word is read apart from."""
    token = text[start:end].lstrip()
    word = token.lstrip(OPENING)
    return end - len(word or token), end


def result(text: str, searched: Sequence[tuple[Piece, Rewriting]], tokenizer: Tokenizer) -> pb.RewrittenText:
    """The answer for one text: its pieces as they were written, and what is between them as it is."""
    parts, end, message = list[str](), 0, pb.RewrittenText()
    for piece, search in searched:
        written = tokenizer.decode([token.id for token in search.tokens])
        parts += text[end : piece.start], written
        end, at = piece.end, 0
        for token in search.tokens:
            spelt = (tokenizer.id_to_token(token.id) or "").replace(SPACE, " ")
            shown = spelt if written.startswith(spelt, at) else spelt.lstrip()  # no space begins a text or a quotation
            at += len(shown)
            start, stop = piece.places[token.source]
            message.tokens.add(text=shown, p_copy=min(1.0, token.copied), source_start=start, source_end=stop)
    message.text = "".join(parts) + text[end:]
    return message
