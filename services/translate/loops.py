"""Translations that say one thing again and again, as a small model's do when it has lost its place."""

from __future__ import annotations

import re

_LOOP = re.compile(r"([^\W\d]{1,8}?|[^\W\d]{1,8}?[，、])\1{2,}")
_REPEATED_WORD = re.compile(r"\b(\w+)\W+\1\b", re.IGNORECASE)


def without_loops(translation: str, source: str) -> str:
    """A translation in which what comes three times or more in a row comes once, unless the source repeats a word."""
    return translation if _REPEATED_WORD.search(source) else _LOOP.sub(r"\1", translation)
