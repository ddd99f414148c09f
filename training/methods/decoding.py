"""Search for the likeliest continuation, in torch and without a cache: what the served search must match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NextTokens = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Hypothesis:
    """Tokens without start and end; `score` is their log-probability, the end's included, over length ** penalty."""

    tokens: list[int]
    score: float


@dataclass
class _Beam:
    tokens: list[int]
    log_probability: float


@torch.no_grad()
def beam_search(
    next_tokens: NextTokens,
    count: int,
    *,
    start: int,
    end: int,
    size: int,
    length_penalty: float,
    longest: Sequence[int],
) -> list[list[Hypothesis]]:
    """The best hypotheses of each of `count` searches, best first; `size` 1 is the greedy choice.

    A search ends when as many hypotheses have ended as there are beams and no beam is better than the worst of them
    would be if it ended now, or after `longest` tokens, when the beams themselves are the hypotheses still missing.

    Args:
        next_tokens: given which search each row belongs to [R] and its tokens so far [R, T], log-probabilities [R, V].
    """
    beams = [[_Beam([start], 0.0)] for _ in range(count)]
    ended: list[list[Hypothesis]] = [[] for _ in range(count)]
    while any(beams):
        rows = [(i, beam) for i, search in enumerate(beams) for beam in search]
        prefixes = torch.tensor([beam.tokens for _, beam in rows])
        scores, ids = next_tokens(torch.tensor([i for i, _ in rows]), prefixes).topk(size + 1)
        candidates: list[list[_Beam]] = [[] for _ in range(count)]
        for (i, beam), row_scores, row_ids in zip(rows, scores.tolist(), ids.tolist(), strict=True):
            pairs = zip(row_scores, row_ids, strict=True)
            candidates[i] += (_Beam([*beam.tokens, t], beam.log_probability + s) for s, t in pairs)
        for i, search in enumerate(candidates):
            if search:
                beams[i] = _advance(search, ended[i], size, end, length_penalty, longest[i])
    return [sorted(hypotheses, key=lambda h: -h.score)[:size] for hypotheses in ended]


def _advance(
    candidates: list[_Beam], ended: list[Hypothesis], size: int, end: int, length_penalty: float, longest: int
) -> list[_Beam]:
    """The beams that go on; those that end are added to `ended`."""
    candidates.sort(key=lambda beam: -beam.log_probability)
    beams: list[_Beam] = []
    for rank, beam in enumerate(candidates):
        if beam.tokens[-1] != end:
            beams.append(beam)
        elif rank < size:  # an ending is a choice like any other: it counts if it is among the best
            ended.append(_hypothesis(beam.tokens[1:-1], beam, length_penalty))
        if len(beams) == size:
            break
    if len(beams[0].tokens) > longest:
        ended.extend(_hypothesis(beam.tokens[1:], beam, length_penalty) for beam in beams[: max(0, size - len(ended))])
        return []
    best = beams[0].log_probability / (len(beams[0].tokens) - 1) ** length_penalty
    if len(ended) >= size and best <= sorted((h.score for h in ended), reverse=True)[size - 1]:
        return []
    return beams


def _hypothesis(tokens: list[int], beam: _Beam, length_penalty: float) -> Hypothesis:
    return Hypothesis(tokens, beam.log_probability / (len(beam.tokens) - 1) ** length_penalty)
