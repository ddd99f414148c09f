"""HW7: whether a text speaks well or ill of something, by BERT's vectors.

A linear layer on the mean vector of question_answerer's encoder, which learned from these texts too; see
training/text_classifier.py. The baseline is VADER (Hutto and Gilbert, 2014), the rules that came with the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from lectern.card import Baseline, Explanation, Limits, Table
from lectern.client import Client
from training import measures, text_classifier
from training.data import labelled_texts, sentiments
from training.data.labelled_texts import Split
from training.evaluate import Track
from training.measures import Decisions, Evaluation
from training.recipe import Trained
from training.run import Run

NEEDS = (text_classifier.ENCODER,)
MARGIN = 0.03  # above VADER
LIMITS = Limits(
    intended="Whether an English tweet, review or news sentence speaks well or ill of its subject.",
    failures=(
        "Version 1 classifies 0.80 of 40 new texts correctly.",
        "It has no neutral class: every text is good or bad.",
        "It is confident about German and Chinese, of which it has learned nothing.",
    ),
)


def train(run: Run) -> Trained:
    """Fit the layer; compare it with VADER and with word counts, also by kind of text."""
    data = labelled_texts.load_sliver(run.sliver.with_suffix(".json")) if run.fast else sentiments.load()
    fitted = text_classifier.fit(run, data)
    found = {
        "sentiment_classifier": fitted.decisions.classes,
        "VADER": vader(data.test),
        "word counts": text_classifier.word_baseline(data),
    }
    evaluation = measured(fitted.decisions, data.labels, data.test)
    right = {name: classes == data.test.labels for name, classes in found.items()}
    kinds = np.array(data.test.sources)
    return Trained(
        title="Good or bad, as a text says",
        lecture="HW7",
        capability="classify",
        task="sentiment classification",
        description="The sign of the sentiment of tweets, reviews and news sentences: a linear layer on "
        "question_answerer's mean vector.",
        graphs={"forward": fitted.graph},
        explanation=Explanation(output="logits", probes=text_classifier.text_probes(run, data, "sentiment")),
        borrowed={"encoder": text_classifier.ENCODER},
        preprocessing=fitted.preprocessing,
        labels=data.labels,
        limits=LIMITS,
        metrics=evaluation.metrics,
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=tuple(
            Baseline(name=name, metric="accuracy", value=float(right[name].mean())) for name in ("VADER", "word counts")
        ),
        tables=(
            Table(
                title="Accuracy by kind of text",
                columns=("kind", "n", *found),
                rows=tuple(
                    (
                        kind,
                        int((kinds == kind).sum()),
                        *(round(float(r[kinds == kind].mean()), 4) for r in right.values()),
                    )
                    for kind in dict.fromkeys(data.test.sources)
                ),
            ),
        ),
        data=(sentiments.SOURCE.card_entry(len(data.train), len(data.validation), len(data.test)),),
        device="CPU",
        parameters=fitted.parameters,
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Accuracy on the test split, as served."""
    data = sentiments.load()
    decisions = text_classifier.served(client, track, "sentiment_classifier", data.test)
    return measured(decisions, data.labels, data.test)


def measured(decisions: Decisions, names: Sequence[str], test: Split) -> Evaluation:
    """Accuracy, with its target above VADER's on the same texts."""
    target = float((vader(test) == test.labels).mean()) + MARGIN
    accuracy = measures.share("accuracy", decisions.accuracy(test.labels), len(test), target=target)
    return measures.classified(decisions, test.labels, names, (accuracy,))


def vader(split: Split) -> NDArray[np.int64]:
    """The sign of VADER's compound score; 0, where it finds nothing, counts as the more frequent one, positive."""
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] >= 0 for text in split.texts], dtype=np.int64)
