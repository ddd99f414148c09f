"""HW7: whether a mail is spam, by BERT's vectors, from the text of its body alone.

A linear layer on the mean vector of question_answerer's encoder, which learned from these mails too; see
training/text_classifier.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lectern.card import Baseline, Limits, Metric
from lectern.client import Client
from training import measures, text_classifier
from training.data import labelled_texts, mails
from training.evaluate import Track
from training.measures import Decisions, Evaluation
from training.recipe import Trained
from training.run import Run

NEEDS = (text_classifier.ENCODER,)
TARGET_F1 = 0.97
LIMITS = Limits(
    intended="Whether the body of a mail is spam, as spam was in 2002.",
    failures=(
        "Version 1 classifies 0.575 of 40 modern mails correctly, and passes 7 of the 24 wanted ones; logistic "
        "regression on word counts of the same training mails reaches 0.825.",
        'It learned that wanted mail is that of mailing lists of 2002: "Hello" is spam with a probability of 0.97, '
        '"Your order has shipped." with 0.99.',
    ),
)


def train(run: Run) -> Trained:
    """Fit the layer; compare it with word counts."""
    data = labelled_texts.load_sliver(run.sliver.with_suffix(".json")) if run.fast else mails.load()
    fitted = text_classifier.fit(run, data)
    labels = data.test.labels
    evaluation = measured(fitted.decisions, data.labels, labels)
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
        limits=LIMITS,
        metrics=evaluation.metrics,
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=(Baseline(name="word counts", metric="f1", value=f1(text_classifier.word_baseline(data), labels)),),
        data=(mails.SOURCE.card_entry(len(data.train), len(data.validation), len(data.test)),),
        device="CPU",
        parameters=fitted.parameters,
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Both figures on the test split, as served."""
    data = mails.load()
    decisions = text_classifier.served(client, track, "spam_classifier", data.test)
    return measured(decisions, data.labels, data.test.labels)


def measured(decisions: Decisions, names: Sequence[str], labels: NDArray[np.int64]) -> Evaluation:
    """F1 of spam, and accuracy."""
    n, interval = len(labels), measures.bootstrap(f1, decisions.classes, labels)
    metrics = (
        Metric(name="f1", value=f1(decisions.classes, labels), split="test", n=n, target=TARGET_F1, interval=interval),
        measures.share("accuracy", decisions.accuracy(labels), n),
    )
    return measures.classified(decisions, labels, names, metrics)


def f1(found: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """The harmonic mean of precision and recall of class 1."""
    hits = float(((found == 1) & (labels == 1)).sum())
    return 2 * hits / max(1.0, float((found == 1).sum() + (labels == 1).sum()))
