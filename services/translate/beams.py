"""Beam search over the steps of a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.runtime.search import Prompt, Rows


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Tokens without start and end; `score` is their log-probability, the end's included, over length ** penalty.

    Args:
        attention: for each token, the weight of each token of the source; empty unless asked for.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    attention: tuple[NDArray[np.float32], ...] = ()


class BeamSearch:
    """The search for one sentence; `size` 1 is the greedy choice. A `Search` of `services.runtime.search`.

    It ends when as many hypotheses have ended as there are beams and no beam is better than the worst of them would be
    if it ended now, or after `longest` tokens, when the beams themselves are the hypotheses still missing. While it is
    decoded, `best` and `done` may be read.

    Args:
        prompt: the sentence, as the encoder takes it; what that gives are the step's inputs of the same names.
    """

    length = 0
    past: Mapping[str, NDArray[Any]] = {}
    constants: Mapping[str, NDArray[Any]] = {}

    def __init__(
        self,
        prompt: Prompt,
        *,
        start: int,
        end: int,
        size: int,
        length_penalty: float,
        longest: int,
        attention: bool = False,
    ) -> None:
        self.width = size
        self.prompt = prompt
        self.first = Rows([0], {"tokens": np.array([[start]])})
        self._end = end
        self._length_penalty = length_penalty
        self._longest = longest
        self._keeps_attention = attention
        self._beams = [Hypothesis((), 0.0, 0.0)]
        self._ended: list[Hypothesis] = []

    @property
    def best(self) -> Hypothesis:
        """The best that there is by now."""
        # Beams first: those that end meanwhile are then seen twice, and not missed.
        return max((*self._beams, *self._ended), key=lambda h: h.score)

    @property
    def done(self) -> bool:
        """Whether there is nothing more to look for."""
        return not self._beams

    @property
    def over(self) -> list[Hypothesis]:
        """What has ended, best first, one for each beam at most."""
        return sorted(self._ended, key=lambda h: -h.score)[: self.width]

    def begin(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.constants = {**outputs, "memory_length": self.prompt.inputs["length"][0]}

    def advance(self, outputs: Mapping[str, NDArray[Any]]) -> Rows | None:
        size = self.width
        scores, ids = outputs["scores"][:, : size + 1].tolist(), outputs["ids"][:, : size + 1].tolist()
        candidates = [
            (beam.log_probability + score, row, token)
            for row, beam in enumerate(self._beams)
            for score, token in zip(scores[row], ids[row], strict=True)
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        beams: list[Hypothesis] = []
        parents: list[int] = []
        for rank, (log_probability, row, token) in enumerate(candidates):
            attention = self._beams[row].attention
            if token != self._end:
                if self._keeps_attention:
                    attention = (*attention, outputs["attention"][row])
                tokens = (*self._beams[row].tokens, token)
                beams.append(self._hypothesis(tokens, log_probability, len(tokens), attention))
                parents.append(row)
            elif rank < size:  # an ending is a choice like any other: it counts if it is among the best
                tokens = self._beams[row].tokens
                self._ended.append(self._hypothesis(tokens, log_probability, len(tokens) + 1, attention))
            if len(beams) == size:
                break
        self._beams = beams
        if len(beams[0].tokens) >= self._longest:
            self._ended += beams[: max(0, size - len(self._ended))]
            self._beams = []
        elif len(self._ended) >= size and beams[0].score <= self.over[-1].score:
            self._beams = []
        return Rows(parents, {"tokens": np.array([[beam.tokens[-1]] for beam in beams])}) if self._beams else None

    def _hypothesis(
        self, tokens: tuple[int, ...], log_probability: float, length: int, attention: Sequence[NDArray[np.float32]]
    ) -> Hypothesis:
        return Hypothesis(tokens, log_probability, log_probability / length**self._length_penalty, tuple(attention))
