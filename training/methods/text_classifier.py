"""What `sentiment_classifier` and `spam_classifier` share: a linear layer on text_encoder's mean vector.

The encoder is not trained here and not stored again: the card names text_encoder's graph, at the version whose vectors
the layer was fitted to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
from torch import Tensor, nn

from artifacts.card import Probe, TextPreprocessing
from artifacts.windows import PAD, text_windows
from lectern.client import Client
from training.data.labelled_texts import LabelledTexts, Split
from training.export.onnx import round_to_half
from training.methods.calibration import temperature
from training.methods.exported_encoder import ExportedEncoder
from training.methods.probes import Features
from training.methods.probes import fitted as fitted_probes
from training.run import Run
from training.served import Track
from training.trained import Graph

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1)  # inverse of regularisation; chosen on the validation split
TEXTS_AT_ONCE = 256
WORKERS = 2
UNSURE = 0.75  # probability below which a decision gets a notice: calibrated, one in four such is wrong or more
TINY = 1e-12  # least probability that is told from none
TEXTS_PER_REQUEST = 64
MOST_TEXT_BYTES = 128 * 1024  # LECTERN_LIMITS__TEXT_BYTES unless an operator says otherwise
PROBED, QUARTERS = 2000, 4  # texts of each split that probes see; parts that their lengths are told by


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


def vectors(run: Run, encoder: ExportedEncoder, texts: Sequence[str], what: str) -> NDArray[np.float32]:
    """The mean vector of each text [N, width]; resumable, as an epoch is."""
    parts = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    with ThreadPoolExecutor(WORKERS) as workers:
        made = workers.map(
            lambda part: run.kept("vectors", [encoder.sha256, *part], lambda: encoder.pooled(part)), parts
        )
        return np.concatenate(list(run.track(made, f"{run.name} {what}", len(parts))))


def fit(run: Run, data: LabelledTexts, *further: Split) -> Fitted:
    """Logistic regression in which all classes weigh the same, its strength and temperature chosen on the validation
    split, then fitted to that and the train split.

    Args:
        further: splits to decide beside `data.test`.
    """
    started, kept = time.monotonic(), run.seconds
    encoder = ExportedEncoder.of(run.repository)
    named = (("train", data.train), ("validation", data.validation), ("test", data.test))
    train, validation, test = (vectors(run, encoder, split.texts, name) for name, split in named)
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
        others = [head(torch.from_numpy(vectors(run, encoder, split.texts, "further texts"))) for split in further]
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


def layer_means(run: Run, encoder: ExportedEncoder, texts: Sequence[str], what: str) -> Features:
    """What each layer makes of the first window of each text, as means over its tokens [N, width]."""
    session, layers = with_layers(encoder.content)
    encodings = encoder.encode(texts)
    means: dict[str, list[NDArray[np.float32]]] = {name: [] for name in layers}
    for encoding in run.track(encodings, f"{run.name} {what}", len(encodings)):
        ids = text_windows(encoding.ids, encoder.preprocessing.max_tokens).ids[:1]
        outputs = session.run(list(layers.values()), {"ids": ids, "segments": np.zeros_like(ids)})
        for of_layer, vectors_of_tokens in zip(means.values(), outputs, strict=True):
            of_layer.append(vectors_of_tokens[ids != PAD].mean(axis=0))
    return {name: np.array(of_layer, np.float64) for name, of_layer in means.items()}


def with_layers(content: bytes) -> tuple[onnxruntime.InferenceSession, dict[str, str]]:
    """An encoder's graph that also gives what its embeddings and each of its layers make of every token, and which
    output is whose."""
    model = onnx.load_from_string(content)
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    names = norms[::2]  # one for the embeddings, then two in each layer, of which the second ends it
    given = {output.name for output in model.graph.output}
    for name in names:
        if name not in given:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    layers = dict(zip(["input", *(f"layer {i}" for i in range(1, len(names)))], names, strict=True))
    return onnxruntime.InferenceSession(bytes(model.SerializeToString())), layers


def text_probes(run: Run, data: LabelledTexts, what: str) -> tuple[Probe, ...]:
    """How well linear classifiers tell the class, called `what`, and the length of texts from the encoder's layers."""
    encoder = ExportedEncoder.of(run.repository)
    train, test = data.train.texts[:PROBED], data.test.texts[:PROBED]
    lengths, test_lengths = (np.array([len(one.ids) for one in encoder.encode(part)]) for part in (train, test))
    edges = np.quantile(lengths, np.linspace(0, 1, QUARTERS + 1)[1:-1])
    known, unknown = (layer_means(run, encoder, texts, "layers") for texts in (train, test))
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
