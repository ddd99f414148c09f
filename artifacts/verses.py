"""The forms of Chinese verse: how long its lines are, and how many."""

from __future__ import annotations

import re

# By characters of a line and number of lines; 0 = any other number.
FORMS = {
    "五言絕句": (5, 4),
    "七言絕句": (7, 4),
    "五言律詩": (5, 8),
    "七言律詩": (7, 8),
    "五言古詩": (5, 0),
    "七言古詩": (7, 0),
    "雜言": (0, 0),
}
MIXED = "雜言"
STOPS = "，。？！；"


def line_lengths(text: str) -> list[int]:
    """Characters of each line, without punctuation."""
    return [len(line) for line in re.split(f"[{STOPS}]", text) if line]


def keeps_form(text: str, form: str) -> bool:
    """Whether every line has the form's length, and there are as many as it has."""
    length, lines = FORMS[form]
    lengths = line_lengths(text)
    return bool(lengths) and set(lengths) == {length} and lines in (0, len(lengths))
