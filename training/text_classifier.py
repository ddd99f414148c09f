"""What `sentiment_classifier` and `spam_classifier` share: a linear layer on question_answerer's mean vector.

The encoder is not trained here and not stored again: the card names question_answerer's graph, at the version whose
vectors the layer was fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from torch import Tensor, nn

from lectern.card import Card, TextPreprocessing
from lectern.client import Client
from lectern.windows import mean_embedding, stacked, text_windows
from training.data.labelled_texts import LabelledTexts, Split
from training.evaluate import Track
from training.export.onnx import round_to_half
from training.export.version import newest_card
from training.recipe import Graph
from training.run import Run
from training.text_encoder import TOKENIZER

ENCODER = "question_answerer"
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse of regularisation; chosen on the validation split
ROWS_AT_ONCE = 16
TEXTS_PER_REQUEST = 64


class Head(nn.Module):
    """Mean vectors float32 [N, width] -> logits float32 [N, classes]."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, mean_vector: Tensor) -> Tensor:
        logits: Tensor = self.linear(mean_vector)
        return logits


@dataclass(frozen=True)
class Fitted:
    """A fitted head, how it is served, and its probability of the second class for each test text."""

    graph: Graph
    preprocessing: TextPreprocessing
    probabilities: NDArray[np.float64]
    parameters: int


class Encoder:
    """The exported encoder of the newest question_answerer in a repository."""

    def __init__(self, repository: Path) -> None:
        card: Card = newest_card(repository / ENCODER)
        assert isinstance(card.preprocessing, TextPreprocessing)
        self.preprocessing = card.preprocessing
        directory = repository / ENCODER / str(card.version)
        self._session = onnxruntime.InferenceSession(directory / "model.onnx")
        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))

    def embed(self, run: Run, texts: Sequence[str], what: str) -> NDArray[np.float32]:
        """The mean vector of each text [N, width], as the service computes it."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        size = self.preprocessing.max_tokens
        windows = [text_windows(encoding.ids, size) for encoding in encodings]
        rows = [row[None] for one in windows for row in one.ids]
        order = sorted(range(len(rows)), key=lambda i: rows[i].shape[1])
        found: dict[int, NDArray[np.float32]] = {}
        groups = range(0, len(order), ROWS_AT_ONCE)
        for start in run.track(groups, f"{run.name} {what}", len(groups)):
            chosen = order[start : start + ROWS_AT_ONCE]
            ids = stacked([rows[i] for i in chosen])
            (vectors,) = self._session.run(["mean_vector"], {"ids": ids, "segments": np.zeros_like(ids)})
            found |= dict(zip(chosen, vectors, strict=True))
        vectors_in_order = iter([found[i] for i in range(len(rows))])
        parts = ([next(vectors_in_order) for _ in one.sizes] for one in windows)
        return np.concatenate([mean_embedding(np.stack(p), one) for p, one in zip(parts, windows, strict=True)])


def fit(run: Run, data: LabelledTexts) -> Fitted:
    """Logistic regression on the train split, its strength chosen on the validation split."""
    encoder = Encoder(run.repository)
    train, validation, test = (
        encoder.embed(run, split.texts, name)
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    )
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    models = [
        LogisticRegression(C=strength, max_iter=2000).fit((train - mean) / deviation, data.train.labels)
        for strength in STRENGTHS
    ]
    best = max(models, key=lambda model: model.score((validation - mean) / deviation, data.validation.labels))
    head = Head(train.shape[1], 2)
    with torch.no_grad():
        weight = torch.from_numpy(best.coef_[0] / deviation).float()
        bias = float(best.intercept_[0] - best.coef_[0] @ (mean / deviation))
        head.linear.weight.copy_(torch.stack([-weight, weight]) / 2)
        head.linear.bias.copy_(torch.tensor([-bias, bias]) / 2)
        round_to_half(head)
        logits = head(torch.from_numpy(test))
    graph = Graph(head.eval(), {"mean_vector": torch.from_numpy(test[:8])}, ("logits",), max_batch_size=64)
    probabilities = logits.double().softmax(1)[:, 1].numpy()
    return Fitted(graph, encoder.preprocessing, probabilities, sum(p.numel() for p in head.parameters()))


def word_baseline(data: LabelledTexts) -> NDArray[np.int64]:
    """What logistic regression on weighted word counts (TF-IDF) says of the test texts."""
    words = TfidfVectorizer(min_df=2, sublinear_tf=True, ngram_range=(1, 2))
    model = LogisticRegression(C=10.0, max_iter=1000).fit(words.fit_transform(data.train.texts), data.train.labels)
    found: NDArray[np.int64] = model.predict(words.transform(data.test.texts))
    return found


def served(client: Client, track: Track, name: str, split: Split) -> NDArray[np.int64]:
    """The class that a server gives each text of a split."""

    def ask() -> Iterator[int]:
        starts = range(0, len(split), TEXTS_PER_REQUEST)
        for start in track(starts, len(starts)):
            response = client.classify_text(split.texts[start : start + TEXTS_PER_REQUEST], name, top_k=1)
            yield from (result.classes[0].index for result in response.results)

    return np.array(list(ask()), dtype=np.int64)
