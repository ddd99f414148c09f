"""Labelled parts of texts as tags of the pieces that a model reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from artifacts.tagging import BEGIN, INSIDE, OUTSIDE

IGNORED = -100  # cross entropy's name for what has no tag


@dataclass(frozen=True)
class Slot:
    """Characters `start` to before `end` of a text, and what they say."""

    label: str
    start: int
    end: int


def tags_of(slots: Sequence[Slot], encoding: Encoding) -> Iterator[str]:
    """The tag of each piece; empty where a word goes on."""
    begun: set[Slot] = set()
    for i, (start, end) in enumerate(encoding.offsets):
        if i and encoding.word_ids[i] == encoding.word_ids[i - 1]:
            yield ""
            continue
        slot = next((slot for slot in slots if slot.start < end and start < slot.end), None)
        if slot is None:
            yield OUTSIDE
            continue
        yield (INSIDE if slot in begun else BEGIN) + slot.label
        begun.add(slot)


def tags_for(labels: Iterable[str]) -> tuple[str, ...]:
    """The tags of words that have one of these labels, begun and gone on with."""
    return tuple(prefix + label for label in labels for prefix in (BEGIN, INSIDE))
