"""HW7: whether a mail is spam, by BERT's vectors, from the text of its body alone.

A linear layer on the mean vector of question_answerer's encoder, which learned from these mails too; see
training/text_classifier.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lectern.card import Baseline, Metric
from lectern.client import Client
from training import text_classifier
from training.data import labelled_texts, mails
from training.evaluate import Track
from training.recipe import Trained
from training.run import Run

NEEDS = (text_classifier.ENCODER,)
TARGET_F1 = 0.97


def train(run: Run) -> Trained:
    """Fit the layer; compare it with word counts."""
    data = labelled_texts.load_sliver(run.sliver.with_suffix(".json")) if run.fast else mails.load()
    fitted = text_classifier.fit(run, data)
    labels = data.test.labels
    return Trained(
        title="Spam or wanted mail",
        lecture="HW7",
        capability="classify",
        task="spam classification",
        description="Whether the body of a mail is spam: a linear layer on question_answerer's mean vector.",
        graphs={"forward": fitted.graph},
        borrowed={"encoder": text_classifier.ENCODER},
        preprocessing=fitted.preprocessing,
        labels=data.labels,
        metrics=metrics((fitted.probabilities > 0.5).astype(np.int64), labels),
        baselines=(Baseline(name="word counts", metric="f1", value=f1(text_classifier.word_baseline(data), labels)),),
        data=(mails.SOURCE.card_entry(len(data.train), len(data.validation), len(data.test)),),
        device="CPU",
        parameters=fitted.parameters,
    )


def evaluate(client: Client, track: Track) -> tuple[Metric, ...]:
    """Both figures on the test split, as served."""
    test = mails.load().test
    return metrics(text_classifier.served(client, track, "spam_classifier", test), test.labels)


def metrics(found: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[Metric, ...]:
    """F1 of spam, and accuracy."""
    return (
        Metric(name="f1", value=f1(found, labels), split="test", n=len(labels), target=TARGET_F1),
        Metric(name="accuracy", value=float((found == labels).mean()), split="test", n=len(labels)),
    )


def f1(found: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """The harmonic mean of precision and recall of class 1."""
    hits = float(((found == 1) & (labels == 1)).sum())
    return 2 * hits / max(1.0, float((found == 1).sum() + (labels == 1).sum()))
