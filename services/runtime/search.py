"""What a decoder asks of a search, which chooses the tokens of one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.runtime.graph import Array


@dataclass(frozen=True, slots=True)
class Rows:
    """What a search wants of the next step.

    Args:
        parents: for each row, which of the search's rows of the step before it goes on from.
        inputs: by name, [rows, ...].
    """

    parents: Sequence[int]
    inputs: Mapping[str, Array]


class Search(Protocol):
    """What chooses the tokens of one sequence.

    Attributes:
        width: most rows that it has at once.
        length: places that are filled before the first step.
        past: keys and values [H, length, D] of these, by name; may be empty if there are none.
        constants: inputs [...] that are the same in each step, by name; a length that varies comes second.
        first: the first step, of one row.
    """

    width: int
    length: int
    past: Mapping[str, Array]
    constants: Mapping[str, Array]
    first: Rows

    @property
    def done(self) -> bool:
        """Whether it is over, perhaps before its first step."""

    def advance(self, outputs: Mapping[str, Array]) -> Rows | None:
        """Take the outputs [rows, ...] of a step; None ends the sequence."""
