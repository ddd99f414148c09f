"""Converts texts to token ids and back, with each token's place in the caller's text.

Texts arrive as UTF-8, which gRPC checks, in any script and direction. A model's tokenizer brings them into the Unicode
normal form that the model knows, drops control characters, and has a token for what its vocabulary lacks (an emoji, an
unknown script). Offsets always count code points of the text as it was sent, in logical order, which for right-to-left
scripts is the order of reading.
"""

from __future__ import annotations

import os
import time
import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from artifacts.windows import Windows, text_windows
from services import pools
from services.codecs.timing import decoded
from services.errors import Internal, InvalidArgument
from services.limits import Limits

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a request has one core, and a pool would not survive a fork

from tokenizers import Tokenizer

# Tokenizing more than this would delay other callers, so it runs off the event loop.
INLINE_CHARACTERS = 4096

_INVISIBLE = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))
_MARKS = frozenset(("Mc", "Me", "Mn"))
_JOINER, _SKIN_TONES = "\u200d", range(0x1F3FB, 0x1F400)


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The tokens of a text, in 16 bytes each: the library's `Encoding` takes 500, as long as the request waits.

    Args:
        ids: of the tokens, in the model's vocabulary.
        words: the word of each token; -1 = none, as for special tokens.
        starts, ends: code points of the text.
    """

    ids: Sequence[int]
    words: Sequence[int]
    starts: Sequence[int]
    ends: Sequence[int]


@lru_cache(maxsize=32)
def load_tokenizer(content: bytes) -> Tokenizer:
    """Load a `tokenizer.json` of the library `tokenizers`; the tokenizer neither pads nor truncates.

    Raises:
        ValueError: it is not a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"not a tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # the name of a special token within a text is ordinary text
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the model needs.

    Raises:
        Internal: the vocabulary lacks it.
    """
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise Internal(f"the model's tokenizer has no token {token!r}")
    return number


def check_texts(texts: Sequence[str], limits: Limits, field: str = "texts", *, blank: bool = False) -> None:
    """Check that there are texts, not too many, and that `check_text` accepts each.

    Raises:
        InvalidArgument: names the field.
    """
    if not texts:
        raise InvalidArgument.field(field, "is empty; send at least one text")
    if len(texts) > limits.texts:
        raise InvalidArgument.field(field, f"has {len(texts)} texts; the most in one request is {limits.texts}")
    for i, text in enumerate(texts):
        check_text(text, limits, f"{field}[{i}]", blank=blank)


def check_text(text: str, limits: Limits, field: str = "text", *, blank: bool = False) -> None:
    """Check that a text has visible content, unless it may be `blank`, and is not too long.

    Raises:
        InvalidArgument: names the field.
    """
    if (size := len(text.encode())) > limits.text_bytes:
        raise InvalidArgument.field(field, f"has {size:,} bytes of UTF-8; the most is {limits.text_bytes:,}")
    if not blank and all(unicodedata.category(character) in _INVISIBLE for character in text):
        what = "has nothing but spaces and control characters" if text else "is empty"
        raise InvalidArgument.field(field, f"{what}; send some text")


async def encode(tokenizer: Tokenizer, texts: Mapping[str, str], *, special: bool = True) -> list[Tokens]:
    """The tokens of each text; the keys are the names of their fields.

    Args:
        special: whether to add the tokens that the model expects around a text, such as [CLS] and [SEP].

    Raises:
        InvalidArgument: a text has no token, e.g. because it is a lone combining mark that the normal form drops.
    """
    started = time.monotonic()
    listed = list(texts.values())
    inline = sum(map(len, listed)) <= INLINE_CHARACTERS
    tokens = await pools.inline_or_codecs(inline, _tokens, tokenizer, listed, special)
    for field, one in zip(texts, tokens, strict=True):
        if one is None:
            raise InvalidArgument.field(field, "has nothing that the model can read")
    decoded("text", started)
    return [one for one in tokens if one is not None]


async def read_windows(
    texts: Sequence[str], tokenizer: bytes, max_tokens: int, limits: Limits
) -> tuple[list[Tokens], list[Windows]]:
    """The tokens of each text of the field `texts`, and its windows of at most `max_tokens`.

    Raises:
        InvalidArgument: `check_texts` or `encode` refuses them, or they are too long together.
    """
    check_texts(texts, limits)
    return await windows_of({f"texts[{i}]": text for i, text in enumerate(texts)}, tokenizer, max_tokens, limits)


async def windows_of(
    texts: Mapping[str, str], tokenizer: bytes, max_tokens: int, limits: Limits
) -> tuple[list[Tokens], list[Windows]]:
    """The tokens of each text, by the names of their fields, and its windows of at most `max_tokens`.

    Raises:
        InvalidArgument: `encode` refuses them, or they are too long together.
    """
    tokens = await encode(load_tokenizer(tokenizer), texts)
    windows = [text_windows(one.ids, max_tokens) for one in tokens]
    if (needed := sum(len(one.ids) for one in windows)) > limits.text_windows:
        raise InvalidArgument.field(
            next(iter(texts)).partition("[")[0],
            f"need {needed} windows of tokens; the most is {limits.text_windows}: send fewer or shorter ones",
        )
    return tokens, windows


def _tokens(tokenizer: Tokenizer, texts: Sequence[str], special: bool) -> list[Tokens | None]:
    """Of each text; None where there are none but special ones."""
    tokens: list[Tokens | None] = []
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=special)
        if all(encoding.special_tokens_mask):
            tokens.append(None)
            continue
        words = array("i", [-1 if word is None else word for word in encoding.word_ids])
        starts, ends = (array("i", places) for places in zip(*encoding.offsets, strict=True))
        tokens.append(Tokens(array("i", encoding.ids), words, starts, ends))
    return tokens


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """A span of code points, widened so that it does not split a character as people see it.

    Tokens end before the combining marks that a normal form drops: accents, vowel points, and the parts joined to an
    emoji.
    """
    while 0 < start < len(text) and _continues(text, start):
        start -= 1
    while end < len(text) and _continues(text, end):
        end += 1
    return start, end


def _continues(text: str, position: int) -> bool:
    """Whether the code point at `position` belongs to the character before it."""
    character = text[position]
    joined = text[position - 1] == _JOINER or character == _JOINER
    return joined or unicodedata.category(character) in _MARKS or ord(character) in _SKIN_TONES
