"""Which word of one style stands where another stands in the other style, found without pairs of texts.

A word that is rarer in the other style has to become a word that is rarer in this one. Among these, its counterparts
are those that stand between the same words (Rapp, "Identifying Word Translations in Non-Parallel Texts", 1995) and are
spelt alike (Koehn and Knight, "Learning a Translation Lexicon from Monolingual Corpora", 2002). Words swapped so make a
rough text of the other style, from which a network learns to write this one, as in the start of Lample et al.,
"Unsupervised Machine Translation Using Monolingual Corpora Only", 2018. What has no counterpart is left out, as style
words are in Li et al., "Delete, Retrieve, Generate", 2018. The network learns what to put there instead.

The thresholds below are those of some by which swapped verses of validation are likest to the other version's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# A word or a sign, with the space before it. A verb with its "not" is one word, as "didn't" is.
PIECE = re.compile(
    r"\s*(?:(?i:do|does|did|is|are|was|were|has|have|had|will|shall|would|should|could)\snot\b"
    r"|[^\W\d_]+(?:'[^\W\d_]+)*|\S)"
)
OFFSETS = (-2, -1, 1, 2)
COMPANION = 0.6  # share of a word's occurrences that have the same word before them, above which both are one
FEWEST = 8  # times that a word must occur in a style to have, or be, a counterpart
CONTEXTS = 1500  # most frequent words, by which places are compared
NEUTRAL = 1.6  # a word is of no style if it is at most so many times as frequent in one as in the other
SPELLING = 0.25  # what equal spelling counts, where equal places count 1
LEAST_ALIKE = 0.3  # of the sum, below which there is no counterpart
SHARPNESS = 20.0  # how much likelier the better counterpart is chosen
KEPT = 5  # counterparts of a word
LEAST_SHARE = 0.01  # of a counterpart
LEAST_EXCESS = 0.3  # share of a word's occurrences that have to change, or all stay: what texts are about differs too
# A word without counterparts is left out if it is this frequent, and a larger share has to change: others are names
# and things that the other style's chapters happen not to have.
LEAST_LEFT_OUT, MOST_FOREIGN = 60, 0.85


@dataclass(frozen=True)
class StyleWords:
    """How to make a text of one style look like the other.

    Args:
        changed: of each word, the share of its occurrences that the other style would not have.
        counterparts: what those become, and the probability of each and those before it; else the word is left out.
        companions: words that are one with the word before them, if it is this one: "the" of "the LORD".
    """

    changed: Mapping[str, float]
    counterparts: Mapping[str, tuple[tuple[str, ...], NDArray[np.float64]]]
    companions: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, text: str) -> list[str]:
        """The words and signs of a text, each with the space before it."""
        return _joined(PIECE.findall(text), self.companions)

    def swap(self, text: str, random: np.random.Generator) -> list[str]:
        """The pieces of a text with words of the other style."""
        swapped, pieces = [], self.pieces(text)
        for piece, chance in zip(pieces, random.random(len(pieces)).tolist(), strict=True):
            word = piece.lstrip()
            if chance >= self.changed.get(word, 0.0):
                swapped.append(piece)
            elif word in self.counterparts:
                words, shares = self.counterparts[word]
                chosen = int(np.searchsorted(shares, random.random()))
                if chosen < len(words):
                    swapped.append(piece[: len(piece) - len(word)] + words[chosen])
        return swapped

    def marks(self, text: str) -> float:
        """How many words of a text the other style would not have, in expectation."""
        return sum(self.changed.get(piece.lstrip(), 0.0) for piece in self.pieces(text))


def style_words(texts: Sequence[Sequence[str]]) -> tuple[StyleWords, StyleWords]:
    """From the texts of two styles, how to make a text of the first look like the second, and the other way about."""
    single = [[[piece.lstrip() for piece in PIECE.findall(text)] for text in own] for own in texts]
    companions = _companions(single)
    cut = [[_joined(words, beside, " ") for words in own] for own, beside in zip(single, companions, strict=True)]
    counts = [Counter(word for words in own for word in words) for own in cut]
    words = sorted(word for word in counts[0] | counts[1] if max(count[word] for count in counts) >= FEWEST)
    folded = sorted({_folded(word) for word in words})
    numbers = {word: i for i, word in enumerate(folded)}
    rates = np.array([[count[word] for word in words] for count in counts]) + 0.0
    totals = np.array([[sum(count.values())] for count in counts])
    rows = np.array([numbers[_folded(word)] for word in words])
    contexts = _contexts(np.stack([np.bincount(rows, own) for own in rates / totals]), 0.5 / totals.max())
    places = [_places(own, numbers, contexts)[rows] for own in cut]
    frequent = (rates >= LEAST_LEFT_OUT) & [not _denies(word) for word in words]  # without its "not" a text lies
    rates /= totals
    return (
        _direction(words, rates[0], rates[1], places[0], places[1], frequent[0], companions[0]),
        _direction(words, rates[1], rates[0], places[1], places[0], frequent[1], companions[1]),
    )


def _companions(cut: Sequence[Sequence[Sequence[str]]]) -> list[dict[str, str]]:
    """For each style, its own words of which most have one and the same word before them, which is of neither style."""
    counts = [Counter(word for words in own for word in words) for own in cut]
    totals = [sum(count.values()) for count in counts]
    companions = []
    for own, mine, other in ((cut[0], 0, 1), (cut[1], 1, 0)):
        share = {w: counts[other][w] / totals[other] * totals[mine] / n for w, n in counts[mine].items()}
        foreign = {w for w, n in counts[mine].items() if n >= LEAST_LEFT_OUT and share[w] < 1 - MOST_FOREIGN}
        pairs = Counter(pair for words in own for pair in pairwise(words) if pair[1] in foreign)
        frequent = [pair for pair, n in pairs.items() if n > COMPANION * counts[mine][pair[1]]]
        companions.append(
            {w: a for a, w in frequent if a.isalpha() and w.isalpha() and 1 / NEUTRAL < share[a] < NEUTRAL}
        )
    return companions


def _joined(pieces: Sequence[str], companions: Mapping[str, str], space: str = "") -> list[str]:
    """Pieces with those that belong together as one."""
    joined: list[str] = []
    for piece in pieces:
        beside = companions.get(piece.lstrip())
        if beside is not None and joined and joined[-1].lstrip().lower() == beside:
            joined[-1] += space + piece
        else:
            joined.append(piece)
    return joined


def _folded(word: str) -> str:
    """A word without the capital of a sentence's start."""
    return word if len(word) > 1 and word.isupper() else word.lower()


def _contexts(rates: NDArray[np.float64], smallest: float) -> NDArray[np.int64]:
    """The commonest words that are of no style, by their rates [2, W]."""
    ratio = np.log((rates[0] + smallest) / (rates[1] + smallest))
    neutral = np.flatnonzero(np.abs(ratio) <= np.log(NEUTRAL))
    return neutral[np.argsort(-rates.sum(0)[neutral], kind="stable")[:CONTEXTS]]


def _direction(
    words: Sequence[str],
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    own_places: sparse.csr_matrix,
    other_places: sparse.csr_matrix,
    frequent: NDArray[np.bool_],
    companions: Mapping[str, str],
) -> StyleWords:
    """How words, with their rates in both styles and where they stand in each, change from one style to the other."""
    excess = np.where(own > 0, 1 - other / np.maximum(own, 1e-12), 0).clip(0)
    leaving = np.flatnonzero(excess > LEAST_EXCESS).tolist()
    coming = np.flatnonzero(other > own * 1.1).tolist()
    gain = other[coming] - own[coming]
    alike = np.asarray((own_places[leaving] @ other_places[coming].T).todense())
    spelt = np.array([[_spelling(words[i], words[j]) for j in coming] for i in leaving])
    scores = np.where(_same_kind(words, leaving, coming), alike + SPELLING * spelt, 0)
    changed, counterparts = {}, {}
    for row, i in enumerate(leaving):
        best = np.argsort(-scores[row], kind="stable")[:KEPT]
        best = best[scores[row, best] >= LEAST_ALIKE]
        if len(best):
            preferred = np.exp(SHARPNESS * (scores[row, best] - scores[row, best[0]])) * gain[best]
            shares = _shares(preferred, gain[best] / (own[i] - other[i]))
            foreign = frequent[i] and excess[i] > MOST_FOREIGN
            whole = 1.0 if foreign else float(shares.sum())
            changed[words[i]] = float(excess[i]) * whole
            counterparts[words[i]] = (tuple(words[coming[j]] for j in best), shares.cumsum() / whole)
        elif frequent[i] and excess[i] > MOST_FOREIGN:
            changed[words[i]] = float(excess[i])
    for word, beside in companions.items():  # without the word beside it, as in "O LORD"
        if word not in counterparts and (phrase := f"{beside} {word}") in counterparts:
            changed[word], counterparts[word] = changed[phrase], counterparts[phrase]
    return StyleWords(changed, counterparts, companions)


def _shares(preferred: NDArray[np.float64], most: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of each counterpart, in proportion to `preferred` and at most `most`: no word comes more often than the
    other style has it. What is left of 1 has none, and stays; what the other style hardly has at all is left out."""
    shares, open_ = np.zeros_like(preferred), preferred > LEAST_SHARE * preferred.sum()
    while open_.any() and shares.sum() < 1 - 1e-9:
        rest = 1 - shares[~open_].sum()
        shares[open_] = rest * preferred[open_] / preferred[open_].sum()
        over = open_ & (shares > most)
        if not over.any():
            break
        shares[over], open_[over] = most[over], False
    return shares


def _places(
    texts: Sequence[Sequence[str]], numbers: Mapping[str, int], contexts: NDArray[np.int64]
) -> sparse.csr_matrix:
    """Where each word stands: positive pointwise mutual information with the words at each offset, of unit length."""
    columns = np.full(len(numbers) + 1, -1)
    columns[contexts] = np.arange(len(contexts))
    gap = [-1] * max(OFFSETS)
    ids = np.array([i for words in texts for i in (*(numbers.get(_folded(word), -1) for word in words), *gap)])
    at, beside = [], []
    for part, offset in enumerate(OFFSETS):
        neighbours = np.full(len(ids), -1)
        if offset > 0:
            neighbours[:-offset] = ids[offset:]
        else:
            neighbours[-offset:] = ids[:offset]
        column = columns[neighbours]
        there = (ids >= 0) & (column >= 0)
        at.append(ids[there])
        beside.append(column[there] + part * len(contexts))
    rows, cols = np.concatenate(at), np.concatenate(beside)
    shape = (len(numbers), len(OFFSETS) * len(contexts))
    table = sparse.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=shape).tocoo()
    of_row = np.asarray(table.sum(1))[:, 0]
    of_column = np.asarray(table.sum(0))[0] ** 0.75  # or what is rare would seem to say most
    expected = of_row[table.row] * of_column[table.col] / of_column.sum()
    information = np.log(table.data / expected).clip(0)
    weighed = sparse.csr_matrix((information, (table.row, table.col)), shape=shape)
    lengths = np.sqrt(np.asarray(weighed.multiply(weighed).sum(1))[:, 0])
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(lengths, 1e-9)) @ weighed)


def _spelling(one: str, other: str) -> float:
    """The share of letters with which both begin, as of the same word with and without a capital."""
    one, other = one.lower(), other.lower()
    common = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        common += 1
    return common / max(len(one), len(other)) if common > 1 else 0.0


def _denies(word: str) -> bool:
    return word.lower().endswith(("n't", "not"))


def _same_kind(words: Sequence[str], one: list[int], other: list[int]) -> NDArray[np.bool_]:
    """Whether both are words or both are signs, both say "not" or neither, and begin with capitals or not, or are the
    same but for capitals."""
    lasts = [word.split()[-1] for word in words]
    kinds = np.array([word[0].isupper() + 2 * word[0].isalpha() + 4 * _denies(word) for word in lasts])
    folded = np.array([_folded(word) for word in words])
    same: NDArray[np.bool_] = kinds[one][:, None] == kinds[other][None]
    same |= folded[one][:, None] == folded[other][None]
    return same
