"""What people think of words, to compare vectors with: pairs of words, and analogies.

WordSim-353 (Finkelstein et al., "Placing Search in Context", 2002) says how related two words are; SimLex-999 (Hill et
al., "SimLex-999", 2015) how alike, which validates. "Athens is to Greece as Baghdad to Iraq", of 14 kinds, is Google's
(Mikolov et al., "Efficient Estimation of Word Representations in Vector Space", 2013). They lie in gensim's package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.fetch import PyPI

SOURCE = PyPI(
    name="gensim",
    version="4.4.0",
    sha256="a3f5b626da5518e79a479140361c663089fe7998df8ba52d56e1ded71ac5bdf5",
    licence="LGPL-2.1 (package); CC BY 4.0 (WordSim-353), Apache-2.0 (analogies), CC BY-SA 3.0 (pages)",
    binary=False,
)


@dataclass(frozen=True)
class Pair:
    """Two words in lower case, and the mean score that people gave them, 0 to 10."""

    first: str
    second: str
    score: float


@dataclass(frozen=True)
class Analogy:
    """`a` is to `b` as `c` to `d`; the kinds that begin with `gram` are of grammar, the others of the world."""

    kind: str
    a: str
    b: str
    c: str
    d: str

    @property
    def words(self) -> tuple[str, str, str, str]:
        return self.a, self.b, self.c, self.d


@dataclass(frozen=True)
class WordTests:
    validation: tuple[Pair, ...]
    pairs: tuple[Pair, ...]
    analogies: tuple[Analogy, ...]


def directory() -> Path:
    """Where gensim's package has its data, fetched on first use (23 MB)."""
    return SOURCE.fetch() / f"{SOURCE.name}-{SOURCE.version}" / "gensim" / "test" / "test_data"


def load() -> WordTests:
    """The three tests."""
    folder = directory()
    validation, pairs = (tuple(read_pairs(folder / name)) for name in ("simlex999.txt", "wordsim353.tsv"))
    return WordTests(validation, pairs, tuple(read_analogies(folder / "questions-words.txt")))


def load_sliver(path: Path) -> WordTests:
    """The few of a file."""
    stored = json.loads(path.read_text())
    validation, pairs = (tuple(Pair(*fields) for fields in stored[name]) for name in ("validation", "pairs"))
    return WordTests(validation, pairs, tuple(Analogy(*fields) for fields in stored["analogies"]))


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file, a line each after those that begin with `#`."""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            first, second, score = line.lower().split()
            yield Pair(first, second, float(score))


def read_analogies(path: Path) -> Iterator[Analogy]:
    """The analogies of a file, each kind after a line of its name."""
    kind = ""
    for line in path.read_text().splitlines():
        if line.startswith(":"):
            kind = line.removeprefix(":").strip()
        else:
            yield Analogy(kind, *line.lower().split())
