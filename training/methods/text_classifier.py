"""What `sentiment_classifier` and `spam_classifier` share: a linear layer on question_answerer's mean vector.

The encoder is not trained here and not stored again: the card names question_answerer's graph, at the version whose
vectors the layer was fitted to.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
from sklearn.metrics import log_loss
from tokenizers import Tokenizer
from torch import Tensor, nn

from artifacts.card import Probe, TextPreprocessing
from artifacts.versions import read_card
from artifacts.windows import PAD, mean_embedding, stacked, text_windows
from lectern.client import Client
from training.data.labelled_texts import LabelledTexts, Split
from training.export.onnx import round_to_half
from training.methods.calibration import temperature
from training.methods.probes import Features
from training.methods.probes import fitted as fitted_probes
from training.methods.text_encoder import TOKENIZER
from training.run import Run
from training.served import Track
from training.trained import Graph

ENCODER = "question_answerer"
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse of regularisation; chosen on the validation split
ROWS_AT_ONCE, TEXTS_AT_ONCE = 16, 256
WORKERS = 2
UNSURE = 0.75  # probability below which a decision gets a notice: calibrated, one in four such is wrong or more
TINY = 1e-12  # least probability that is told from none
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
    """A fitted head, how it is served, and its logits [N, classes] of the test texts and of further splits."""

    graph: Graph
    preprocessing: TextPreprocessing
    logits: NDArray[np.float32]
    parameters: int
    further: tuple[NDArray[np.float32], ...]


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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # `vectors` runs several sessions' worth side by side
        self._session = onnxruntime.InferenceSession(with_layers(content) if layers else content, options)
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))

    def layer_means(self, run: Run, texts: Sequence[str], what: str) -> Features:
        """What each layer makes of the first window of each text, as means over its tokens [N, width]."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        names = [output.name for output in self._session.get_outputs() if output.name not in OUTPUTS]
        means_by_layer: list[list[NDArray[np.float32]]] = [[] for _ in names]
        for encoding in run.track(encodings, f"{run.name} {what}", len(encodings)):
            ids = text_windows(encoding.ids, self.preprocessing.max_tokens).ids[:1]
            outputs = self._session.run(names, {"ids": ids, "segments": np.zeros_like(ids)})
            for means, vectors in zip(means_by_layer, outputs, strict=True):
                means.append(vectors[ids != PAD].mean(axis=0))
        layers = ["input", *(f"layer {i}" for i in range(1, len(names)))]
        return {layer: np.array(means, np.float64) for layer, means in zip(layers, means_by_layer, strict=True)}

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """How many tokens each text has."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return np.array([len(encoding.ids) for encoding in encodings])

    def vectors(self, run: Run, texts: Sequence[str], what: str) -> NDArray[np.float32]:
        """The mean vector of each text [N, width], as the service computes it; resumable, as an epoch is."""
        parts = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
        with ThreadPoolExecutor(WORKERS) as workers:
            made = workers.map(
                lambda part: run.kept("vectors", [self._sha256, *part], lambda: self._embed(part)), parts
            )
            return np.concatenate(list(run.track(made, f"{run.name} {what}", len(parts))))

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        windows = [text_windows(encoding.ids, self.preprocessing.max_tokens) for encoding in encodings]
        rows = [row[None] for one in windows for row in one.ids]
        order = sorted(range(len(rows)), key=lambda i: rows[i].shape[1])
        vector_of: dict[int, NDArray[np.float32]] = {}
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            ids = stacked([rows[i] for i in chosen])
            (vectors,) = self._session.run(["mean_vector"], {"ids": ids, "segments": np.zeros_like(ids)})
            vector_of |= dict(zip(chosen, vectors, strict=True))
        vectors_in_order = iter([vector_of[i] for i in range(len(rows))])
        parts = ([next(vectors_in_order) for _ in one.sizes] for one in windows)
        return np.concatenate([mean_embedding(np.stack(p), one) for p, one in zip(parts, windows, strict=True)])


def fit(run: Run, data: LabelledTexts, *further: Split) -> Fitted:
    """Logistic regression in which all classes weigh the same, its strength and temperature chosen on the validation
    split, then fitted to that and the train split.

    Args:
        further: splits to decide beside `data.test`.
    """
    started, kept = time.monotonic(), run.seconds
    encoder = Encoder(run.repository)
    named = (("train", data.train), ("validation", data.validation), ("test", data.test))
    train, validation, test = (encoder.vectors(run, split.texts, name) for name, split in named)
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    known, held_out = (train - mean) / deviation, (validation - mean) / deviation
    every = np.arange(len(data.labels))
    models = [
        LogisticRegression(C=s, max_iter=2000, class_weight="balanced").fit(known, data.train.labels) for s in STRENGTHS
    ]
    chosen = min(
        models, key=lambda model: log_loss(data.validation.labels, model.predict_proba(held_out), labels=every)
    )
    warmth = temperature(torch.from_numpy(linear(chosen, held_out)), torch.from_numpy(data.validation.labels))
    best = clone(chosen).fit(
        np.concatenate([known, held_out]), np.concatenate([data.train.labels, data.validation.labels])
    )
    head = Head(train.shape[1], len(data.labels))
    with torch.no_grad():
        # What it says of vectors of a single 1 and of none, before they are standardised.
        basis = (np.vstack([np.eye(len(mean)), np.zeros(len(mean))]) - mean) / deviation
        *slopes, bias = torch.from_numpy(linear(best, basis) / warmth).float()
        head.linear.weight.copy_((torch.stack(slopes) - bias).T)
        head.linear.bias.copy_(bias)
        round_to_half(head)
        logits = head(torch.from_numpy(test))
        others = [head(torch.from_numpy(encoder.vectors(run, split.texts, "further texts"))) for split in further]
    graph = Graph(head.eval(), {"mean_vector": torch.from_numpy(test[:8])}, ("logits",), max_batch_size=64)
    run.seconds = kept + time.monotonic() - started
    return Fitted(
        graph,
        encoder.preprocessing,
        logits.numpy(),
        sum(p.numel() for p in head.parameters()),
        tuple(other.numpy() for other in others),
    )


def linear(model: LogisticRegression, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logits [N, classes] of rows [N, width]; of two classes, that of one is the other's negative."""
    scores: NDArray[np.float64] = model.decision_function(rows)
    return np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores


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


def word_baseline(data: LabelledTexts) -> NDArray[np.float64]:
    """What logistic regression on weighted word counts (TF-IDF) says of the test texts: logarithms of the classes'
    probabilities [N, classes]."""
    words = TfidfVectorizer(min_df=2, sublinear_tf=True, ngram_range=(1, 2))
    model = LogisticRegression(C=10.0, max_iter=1000).fit(words.fit_transform(data.train.texts), data.train.labels)
    logarithms: NDArray[np.float64] = model.predict_log_proba(words.transform(data.test.texts))
    return logarithms


def served(client: Client, track: Track, name: str, split: Split, labels: Sequence[str]) -> NDArray[np.float64]:
    """What a server says of each text of a split: logarithms of the probabilities of the labels [N, labels]; one that
    the served version does not know has none. Of a text that is longer than servers take, it reads the beginning."""
    starts = range(0, len(split), TEXTS_PER_REQUEST)
    texts = [text.encode()[:MOST_TEXT_BYTES].decode(errors="ignore") for text in split.texts]
    results = [
        {scored.label: scored.probability for scored in result.classes}
        for start in track(starts, len(starts))
        for result in client.classify_text(texts[start : start + TEXTS_PER_REQUEST], name).results
    ]
    return np.log(np.maximum([[result.get(label, 0.0) for label in labels] for result in results], TINY))
