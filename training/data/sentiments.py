"""Tweets, movie and product reviews and news sentences with the mean score of twenty human raters.

From Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (2014). The
label is the sign of the mean score, from -4 to 4; those of exactly 0 have none and are left out.
"""

from __future__ import annotations

import html
import tarfile
from collections.abc import Iterator

from training.data.fetch import PyPI
from training.data.labelled_texts import LabelledTexts, split

SOURCE = PyPI(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    licence="MIT (Hutto and Gilbert 2014)",
    binary=False,
)
LABELS = ("negative", "positive")
FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "movie reviews": "movieReviewSnippets_GroundTruth.txt",
    "product reviews": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
}


def load() -> LabelledTexts:
    """The whole data set, fetched on first use (3 MB)."""
    return split(LABELS, read())


def read() -> Iterator[tuple[str, int, str]]:
    """Each text with its label and the name of its file."""
    directory = SOURCE.fetch() / f"vaderSentiment-{SOURCE.version}" / "additional_resources"
    with tarfile.open(directory / "hutto_ICWSM_2014.tar.gz") as archive:
        for source, name in FILES.items():
            file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
            assert file is not None
            for line in file.read().decode().splitlines():
                _, score, text = line.split("\t", 2)
                if float(score):
                    yield html.unescape(text).strip(), int(float(score) > 0), source
