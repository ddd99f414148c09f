"""Tweets, movie and product reviews and news sentences with the mean score of twenty human raters.

From Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (2014). A
text is neutral if its mean score, from -4 to 4, is within `NEUTRAL` of 0, else its label is the score's sign. So few
raters call a text neutral that training has more of them, which state facts: captions of photos (SNLI: Bowman et al.,
"A large annotated corpus for learning natural language inference", 2015). And it has sentences of negation and of
contrast, made from VADER's own words, whose sentiment no single word tells.
"""

from __future__ import annotations

import html
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data import entailment
from training.data.fetch import PyPI
from training.data.hashing import bucket
from training.data.labelled_texts import Item, LabelledTexts, Split, split_of

SOURCE = PyPI(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    licence="MIT (Hutto and Gilbert 2014)",
    binary=False,
)
Scored: TypeAlias = tuple[str, float, str]
"""A text, its mean score and its source."""

LABELS = ("negative", "neutral", "positive")
NEGATIVE, INDIFFERENT, POSITIVE = range(3)
NEUTRAL = 0.3  # largest mean score of a text that is neutral
FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "movie reviews": "movieReviewSnippets_GroundTruth.txt",
    "product reviews": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
}
CAPTIONED, MADE = 1500, 1500  # captions and made sentences to train on
_GOOD = (
    "good great excellent wonderful lovely helpful friendly delicious reliable comfortable fun beautiful clean useful"
)
_BAD = "bad awful terrible horrible dirty rude boring useless broken painful ugly disappointing annoying stupid"
_THINGS = "food room staff story music screen battery service design view price plot delivery camera coffee seat"
_DENIALS = (
    "The {0} was not {1}.",
    "The {0} isn't {1} at all.",
    "I would not call the {0} {1}.",
    "There is nothing {1} about the {0}.",
    "I have never had a {0} that was less {1}.",
    "Nobody could say that the {0} is {1}.",
    "I did not find the {0} {1}.",
)
# What follows weighs more.
_CONTRASTS = (
    "The {0} was {1}, but the {2} was so {3} that it hardly mattered.",
    "Although the {0} is {1}, the {2} is {3}, and that decides it.",
    "It looked {1} at first; in the end it was {3}.",
    "They say the {0} is {1}. It is {3}.",
)


@dataclass(frozen=True)
class Sentiments(LabelledTexts):
    """Texts of three classes. `scores` [N] are the raters' means of the test texts."""

    scores: NDArray[np.float64]


def load() -> Sentiments:
    """The whole data set, fetched on first use (4 MB)."""
    scored = list({item[0]: item for item in read()}.values())
    further = (*captions(), *negations_and_contrasts(MADE))
    return _split(scored, [bucket(text, 10) for text, _, _ in scored], further)


def load_sliver(path: Path) -> Sentiments:
    """The few texts of a file, all of them of the training split: every eighth stands in for the test split."""
    scored: list[Scored] = [(text, score, source) for text, score, source in json.loads(path.read_text())]
    return _split(scored, [i % 8 for i in range(len(scored))], ())


def _split(scored: Sequence[Scored], buckets: Sequence[int], further: Iterable[Item]) -> Sentiments:
    parts: dict[str, list[Scored]] = {"train": [], "validation": [], "test": []}
    for item, place in zip(scored, buckets, strict=True):
        parts[{0: "test", 1: "validation"}.get(place, "train")].append(item)
    return Sentiments(
        LABELS,
        split_of((*labelled(parts["train"]), *further)),
        split_of(labelled(parts["validation"])),
        split_of(labelled(parts["test"])),
        np.array([score for _, score, _ in parts["test"]]),
    )


def of_sign(split: Split, scores: NDArray[np.float64]) -> tuple[Split, NDArray[np.int64]]:
    """The texts whose score [N] has a sign, and whether it is positive, int64 [M]."""
    kept = [item for item, score in zip(split.items(), scores, strict=True) if score]
    return split_of(kept), (scores[scores != 0] > 0).astype(np.int64)


def labelled(scored: Iterable[Scored]) -> Iterator[Item]:
    """Scored texts with their classes."""
    for text, score, source in scored:
        yield text, INDIFFERENT if abs(score) <= NEUTRAL else POSITIVE if score > 0 else NEGATIVE, source


def read() -> Iterator[Scored]:
    """Each text with its score and the name of its file."""
    directory = SOURCE.fetch() / f"vaderSentiment-{SOURCE.version}" / "additional_resources"
    with tarfile.open(directory / "hutto_ICWSM_2014.tar.gz") as archive:
        for source, name in FILES.items():
            file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
            assert file is not None
            for line in file.read().decode().splitlines():
                _, score, text = line.split("\t", 2)
                yield html.unescape(text).strip(), float(score), source


def captions() -> Iterator[Item]:
    """Neutral sentences, each once."""
    distinct = dict.fromkeys(entailment.captions())
    for caption in list(distinct)[:CAPTIONED]:
        yield caption.strip(), INDIFFERENT, "captions"


def negations_and_contrasts(count: int) -> Iterator[Item]:
    """Made sentences, half of each kind, the same every time."""
    random = np.random.default_rng(0)
    good, bad, things = _GOOD.split(), _BAD.split(), _THINGS.split()
    for i in range(count):
        says, meant = ((good, bad), (bad, good))[i % 2]
        thing, other = random.choice(things, 2, replace=False)
        frames = _DENIALS if i % 4 < 2 else _CONTRASTS
        text = str(random.choice(frames)).format(thing, random.choice(says), other, random.choice(meant))
        yield text, NEGATIVE if says is good else POSITIVE, "made"
