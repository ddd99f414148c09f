"""Texts to token ids and back, with each token's place in the caller's own text.

Texts come as UTF-8, which gRPC itself checks, in any script and direction. A model's tokenizer brings them into the
Unicode normal form that the model knows, drops control characters, and gives what its vocabulary lacks a token of its
own (an emoji, a script never seen). Whatever it does, offsets count code points of the text as it was sent, in the
order of its code points, which for right-to-left scripts is the order of reading.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

from services import pools
from services.codecs.timing import decoded
from services.errors import Internal, InvalidArgument
from services.limits import Limits

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a request has one core, and a pool would not survive a fork

from tokenizers import Encoding, Tokenizer

# Tokenizing more than this takes long enough to delay other callers, so it leaves the event loop.
INLINE_CHARACTERS = 4096

_INVISIBLE = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))
_MARKS = frozenset(("Mc", "Me", "Mn"))
_JOINER, _SKIN_TONES = "\u200d", range(0x1F3FB, 0x1F400)


@lru_cache(maxsize=32)
def load_tokenizer(content: bytes) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, as the library `tokenizers` writes it; it neither pads nor truncates.

    Raises:
        ValueError: it is not one.
    """
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"not a tokenizer: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # a text that has a special token's name in it is text all the same
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the model cannot do without.

    Raises:
        Internal: the vocabulary lacks it.
    """
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise Internal(f"the model's tokenizer has no token {token!r}")
    return number


def check_texts(texts: Sequence[str], limits: Limits, field: str = "texts") -> None:
    """See that there are texts, not too many, and none that `check_text` refuses.

    Raises:
        InvalidArgument: names the field.
    """
    if not texts:
        raise InvalidArgument.field(field, "is empty; send at least one text")
    if len(texts) > limits.texts:
        raise InvalidArgument.field(field, f"has {len(texts)} texts; the most in one request is {limits.texts}")
    for i, text in enumerate(texts):
        check_text(text, limits, f"{field}[{i}]")


def check_text(text: str, limits: Limits, field: str = "text") -> None:
    """See that a text has something to read, and is not too long.

    Raises:
        InvalidArgument: names the field.
    """
    if (size := len(text.encode())) > limits.text_bytes:
        raise InvalidArgument.field(field, f"has {size:,} bytes of UTF-8; the most is {limits.text_bytes:,}")
    if all(unicodedata.category(character) in _INVISIBLE for character in text):
        what = "has nothing but spaces and control characters" if text else "is empty"
        raise InvalidArgument.field(field, f"{what}; send some text")


async def encode(tokenizer: Tokenizer, texts: Mapping[str, str], *, special: bool = True) -> list[Encoding]:
    """Token ids and offsets of each text; the keys name the fields that they came in.

    Args:
        special: whether to add the tokens that the model wants around a text, such as [CLS] and [SEP].

    Raises:
        InvalidArgument: a text has no token, e.g. because it is a lone combining mark that the model's form drops.
    """
    started = time.monotonic()
    listed = list(texts.values())
    if sum(map(len, listed)) <= INLINE_CHARACTERS:
        encodings = tokenizer.encode_batch(listed, add_special_tokens=special)
    else:
        encodings = await pools.codecs.run(tokenizer.encode_batch, listed, add_special_tokens=special)
    for field, encoding in zip(texts, encodings, strict=True):
        if all(encoding.special_tokens_mask):
            raise InvalidArgument.field(field, "has nothing that the model can read")
    decoded("text", started)
    return encodings


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """A span of code points, widened so that it cuts no character as people see them.

    Tokens end before the combining marks that a normal form drops: accents, vowel points, and what is joined to an
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
