"""Tells the style of a text: logistic regression on its words and pairs of words, weighted by rarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

WORD_OR_SIGN = r"[^\W\d_]+|[^\w\s]"


class StyleClassifier:
    """Learned from texts of each style, none of them in both."""

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        words = TfidfVectorizer(token_pattern=WORD_OR_SIGN, ngram_range=(1, 2), min_df=3, sublinear_tf=True)
        self._model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=300))
        styles = [style for style, own in texts.items() for _ in own]
        self._model.fit([text for own in texts.values() for text in own], styles)

    def is_style(self, texts: Sequence[str], style: str) -> NDArray[np.bool_]:
        """Which texts look like a style [N]."""
        wanted: NDArray[np.bool_] = self._model.predict(list(texts)) == style
        return wanted
