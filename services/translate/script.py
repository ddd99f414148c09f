"""Translations in Simplified characters, by OpenCC; it converts what Taiwan writes and keeps a text's length."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import opencc


def simplified(text: str) -> str:
    """A text of Traditional characters in Simplified ones."""
    converted: str = _converter().convert(text)
    return converted


def simplified_parts(parts: Sequence[str]) -> list[str]:
    """The parts of a text, converted as one: which character is right may depend on its neighbours."""
    text = simplified("".join(parts))
    ends = itertools.accumulate(map(len, parts), initial=0)
    return [text[start:end] for start, end in itertools.pairwise(ends)]


@cache
def _converter() -> opencc.OpenCC:
    return opencc.OpenCC("tw2s")
