"""The interface between a decoder and a search, which chooses the tokens of one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.runtime.graph import Array, Graph


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a search in the next step.

    Args:
        parents: for each row, the row of the search's previous step that it continues.
        inputs: by name, [rows, ...].
    """

    parents: Sequence[int]
    inputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a graph reads of a sequence before its first step.

    Args:
        graph: the encoder, or the graph that is decoded.
        inputs: by name, [1, ...].
        key: if not empty, the outputs depend on nothing else, and are kept for the next search with this key.
    """

    graph: Graph
    inputs: Mapping[str, Array]
    key: bytes = b""


class Search(Protocol):
    """Chooses the tokens of one sequence.

    Attributes:
        width: most rows at once.
        length: places that are filled before the first step.
        past: keys and values [H, length, D] of these places, by name; may be empty if `length` is 0.
        constants: inputs [...] that are the same in each step, by name; an axis of variable length is the second.
        first: the first step, of one row.
    """

    width: int
    length: int
    past: Mapping[str, Array]
    constants: Mapping[str, Array]
    first: Rows

    @property
    def prompt(self) -> Prompt | None:
        """What is to be read first, if anything; `length`, `past`, `constants` and `first` count after `begin`."""

    def begin(self, outputs: Mapping[str, Array]) -> None:
        """Take the outputs [...] for the prompt; not to be changed, for others may have them too."""

    @property
    def done(self) -> bool:
        """Whether it has ended; it may end before its first step."""

    def advance(self, outputs: Mapping[str, Array]) -> Rows | None:
        """Take the outputs [rows, ...] of a step and return the rows of the next; None ends the sequence."""
