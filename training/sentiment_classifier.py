"""HW7: whether a text speaks well or ill of something, by BERT's vectors.

A linear layer on the mean vector of question_answerer's encoder, which learned from these texts too; see
training/text_classifier.py. The baseline is VADER (Hutto and Gilbert, 2014), the rules that came with the data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from lectern.card import Baseline, Explanation, Metric, Table
from lectern.client import Client
from training import text_classifier
from training.data import labelled_texts, sentiments
from training.data.labelled_texts import Split
from training.evaluate import Track
from training.recipe import Trained
from training.run import Run

NEEDS = (text_classifier.ENCODER,)
MARGIN = 0.03  # above VADER


def train(run: Run) -> Trained:
    """Fit the layer; compare it with VADER and with word counts, also by kind of text."""
    data = labelled_texts.load_sliver(run.sliver.with_suffix(".json")) if run.fast else sentiments.load()
    fitted = text_classifier.fit(run, data)
    found = {
        "sentiment_classifier": (fitted.probabilities > 0.5).astype(np.int64),
        "VADER": vader(data.test),
        "word counts": text_classifier.word_baseline(data),
    }
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
        metrics=metrics(float(right["sentiment_classifier"].mean()), data.test),
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


def evaluate(client: Client, track: Track) -> tuple[Metric, ...]:
    """Accuracy on the test split, as served."""
    test = sentiments.load().test
    found = text_classifier.served(client, track, "sentiment_classifier", test)
    return metrics(float((found == test.labels).mean()), test)


def metrics(accuracy: float, test: Split) -> tuple[Metric, ...]:
    """The figure, with its target above VADER's on the same texts."""
    target = float((vader(test) == test.labels).mean()) + MARGIN
    return (Metric(name="accuracy", value=accuracy, split="test", n=len(test), target=target),)


def vader(split: Split) -> NDArray[np.int64]:
    """The sign of VADER's compound score; 0, where it finds nothing, counts as the more frequent one, positive."""
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] >= 0 for text in split.texts], dtype=np.int64)
