"""What `sentiment_classifier` and `spam_classifier` share: a linear layer on question_answerer's mean vector.

The encoder is not trained here and not stored again: the card names question_answerer's graph, at the version whose
vectors the layer was fitted to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from torch import Tensor, nn

from lectern.card import Probe, TextPreprocessing
from lectern.client import Client
from lectern.versions import read_card
from lectern.windows import PAD, mean_embedding, stacked, text_windows
from training.data.labelled_texts import LabelledTexts, Split
from training.evaluate import Track
from training.export.onnx import round_to_half
from training.measures import Decisions
from training.probes import Features
from training.probes import fitted as fitted_probes
from training.recipe import Graph
from training.run import Run
from training.text_encoder import TOKENIZER

ENCODER = "question_answerer"
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse of regularisation; chosen on the validation split
ROWS_AT_ONCE = 16
TEXTS_PER_REQUEST = 64
MOST_TEXT_BYTES = 128 * 1024  # LECTERN_LIMITS__TEXT_BYTES unless an operator says otherwise
PROBED, QUARTERS = 2000, 4  # texts of each split that probes see; parts that their lengths are told by
OUTPUTS = ("starts", "ends", "mean_vector", "attention")


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
    """A fitted head, how it is served, and what it decides for each test text."""

    graph: Graph
    preprocessing: TextPreprocessing
    decisions: Decisions
    parameters: int


class Encoder:
    """The exported encoder of the question_answerer that a repository serves.

    Args:
        layers: whether it also gives what each of its layers makes of every token.
    """

    def __init__(self, repository: Path, layers: bool = False) -> None:
        card = read_card(repository / ENCODER)
        assert isinstance(card.preprocessing, TextPreprocessing)
        self.preprocessing = card.preprocessing
        directory = repository / ENCODER / str(card.version)
        content = (directory / "model.onnx").read_bytes()
        self._session = onnxruntime.InferenceSession(with_layers(content) if layers else content)
        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))

    def layer_means(self, run: Run, texts: Sequence[str], what: str) -> Features:
        """What each layer makes of the first window of each text, as means over its tokens [N, width]."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        names = [output.name for output in self._session.get_outputs() if output.name not in OUTPUTS]
        found: list[list[NDArray[np.float32]]] = [[] for _ in names]
        for encoding in run.track(encodings, f"{run.name} {what}", len(encodings)):
            ids = text_windows(encoding.ids, self.preprocessing.max_tokens).ids[:1]
            outputs = self._session.run(names, {"ids": ids, "segments": np.zeros_like(ids)})
            for means, vectors in zip(found, outputs, strict=True):
                means.append(vectors[ids != PAD].mean(axis=0))
        layers = ["input", *(f"layer {i}" for i in range(1, len(names)))]
        return {layer: np.array(means, np.float64) for layer, means in zip(layers, found, strict=True)}

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """How many tokens each text has."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return np.array([len(encoding.ids) for encoding in encodings])

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
    """Logistic regression, its strength chosen on the validation split, then fitted to that and the train split."""
    started = time.monotonic()
    encoder = Encoder(run.repository)
    train, validation, test = (
        encoder.embed(run, split.texts, name)
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    )
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    known, held_out = (train - mean) / deviation, (validation - mean) / deviation
    models = [LogisticRegression(C=s, max_iter=2000).fit(known, data.train.labels) for s in STRENGTHS]
    chosen = max(models, key=lambda model: model.score(held_out, data.validation.labels))
    best = clone(chosen).fit(
        np.concatenate([known, held_out]), np.concatenate([data.train.labels, data.validation.labels])
    )
    head = Head(train.shape[1], 2)
    with torch.no_grad():
        weight = torch.from_numpy(best.coef_[0] / deviation).float()
        bias = float(best.intercept_[0] - best.coef_[0] @ (mean / deviation))
        head.linear.weight.copy_(torch.stack([-weight, weight]) / 2)
        head.linear.bias.copy_(torch.tensor([-bias, bias]) / 2)
        round_to_half(head)
        logits = head(torch.from_numpy(test))
    graph = Graph(head.eval(), {"mean_vector": torch.from_numpy(test[:8])}, ("logits",), max_batch_size=64)
    run.seconds += time.monotonic() - started
    return Fitted(graph, encoder.preprocessing, Decisions.of(logits), sum(p.numel() for p in head.parameters()))


def with_layers(content: bytes) -> bytes:
    """An encoder's graph that also gives its embeddings and what each layer makes of them."""
    model = onnx.load_from_string(content)
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    for name in norms[::2]:  # one for the embeddings, then two in each layer, of which the second ends it
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def text_probes(run: Run, data: LabelledTexts, what: str) -> tuple[Probe, ...]:
    """How well linear classifiers tell the class, called `what`, and the length of texts from the encoder's layers."""
    encoder = Encoder(run.repository, layers=True)
    train, test = data.train.texts[:PROBED], data.test.texts[:PROBED]
    lengths, test_lengths = encoder.tokens(train), encoder.tokens(test)
    edges = np.quantile(lengths, np.linspace(0, 1, QUARTERS + 1)[1:-1])
    known, unknown = (encoder.layer_means(run, texts, "layers") for texts in (train, test))
    properties = {
        what: (data.train.labels[:PROBED], data.test.labels[:PROBED]),
        "length, in quarters": (np.searchsorted(edges, lengths), np.searchsorted(edges, test_lengths)),
    }
    return fitted_probes(known, unknown, properties)


def word_baseline(data: LabelledTexts) -> NDArray[np.int64]:
    """What logistic regression on weighted word counts (TF-IDF) says of the test texts."""
    words = TfidfVectorizer(min_df=2, sublinear_tf=True, ngram_range=(1, 2))
    model = LogisticRegression(C=10.0, max_iter=1000).fit(words.fit_transform(data.train.texts), data.train.labels)
    found: NDArray[np.int64] = model.predict(words.transform(data.test.texts))
    return found


def served(client: Client, track: Track, name: str, split: Split) -> Decisions:
    """What a server says of each text of a split; of one that is longer than servers take, of its beginning."""
    starts = range(0, len(split), TEXTS_PER_REQUEST)
    texts = [text.encode()[:MOST_TEXT_BYTES].decode(errors="ignore") for text in split.texts]
    best = [
        result.classes[0]
        for start in track(starts, len(starts))
        for result in client.classify_text(texts[start : start + TEXTS_PER_REQUEST], name, top_k=1).results
    ]
    return Decisions(np.array([c.index for c in best]), np.array([c.probability for c in best]))
