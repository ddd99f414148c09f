"""Trigrams with modified Kneser-Ney smoothing (Chen and Goodman, "An Empirical Study of Smoothing Techniques for
Language Modeling", 1998): what a language model is measured against."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

Context = tuple[int, ...]


class Trigrams:
    """Probabilities of tokens after the two before them, interpolated with those after one and after none.

    Three discounts of each order are estimated from its counts of counts, as Chen and Goodman give them.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], vocabulary: int) -> None:
        self._vocabulary = vocabulary
        counts = [Counter[tuple[int, ...]]() for _ in range(3)]
        for ids in sequences:
            counts[2].update(zip(ids, ids[1:], ids[2:], strict=False))
            counts[1].update([tuple(ids[:2])])  # nothing comes before it, so it counts as it is
        # The lower orders count in how many contexts something occurs, not how often.
        counts[1].update(gram[1:] for gram in counts[2])
        counts[0].update(gram[1:] for gram in counts[1])
        self._counts = counts
        self._discounts = [_discounts(order.values()) for order in counts]
        self._totals: list[dict[Context, int]] = []
        self._left_over: list[dict[Context, float]] = []
        for order, discounts in zip(counts, self._discounts, strict=True):
            totals: dict[Context, int] = defaultdict(int)
            taken: dict[Context, float] = defaultdict(float)
            for gram, count in order.items():
                totals[gram[:-1]] += count
                taken[gram[:-1]] += discounts[min(count, 3)]
            self._totals.append(totals)
            self._left_over.append({context: taken[context] / total for context, total in totals.items()})

    def probability(self, context: Context, token: int) -> float:
        """Of `token` after `context`, of which the last two count."""
        probability = 1 / self._vocabulary
        for order in range(min(len(context), 2) + 1):
            before = context[len(context) - order :]
            total = self._totals[order].get(before)
            if not total:
                break
            count = self._counts[order].get((*before, token), 0)
            kept = max(count - self._discounts[order][min(count, 3)], 0.0) / total
            probability = kept + self._left_over[order][before] * probability
        return probability

    def perplexity(self, sequences: Sequence[Sequence[int]], after: int) -> float:
        """Per token, of all that come after the first token `after` of each sequence."""
        total, tokens = 0.0, 0
        for ids in sequences:
            for place in range(list(ids).index(after) + 1, len(ids)):
                total -= math.log(self.probability(tuple(ids[max(0, place - 2) : place]), ids[place]))
                tokens += 1
        return math.exp(total / tokens)


def _discounts(counts: Iterable[int]) -> tuple[float, float, float, float]:
    """Discounts of counts 0, 1, 2, and 3 or more."""
    n = Counter(min(count, 5) for count in counts)
    if not all(n[i] for i in range(1, 5)):
        return (0.0, 0.75, 0.75, 0.75)  # too few to estimate, as on a sliver
    y = n[1] / (n[1] + 2 * n[2])
    one, two, three = ((i - (i + 1) * y * n[i + 1] / n[i]) for i in (1, 2, 3))
    return (0.0, one, two, three)
