"""HW7: whether a text speaks well or ill of something, or neither, by BERT's vectors.

A linear layer on the mean vector of text_encoder, which learned from these texts too; see
training/methods/text_classifier.py. The baseline is VADER (Hutto and Gilbert, 2014), the rules that came with the data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from artifacts.card import Baseline, Explanation, Limits, Metric, Table
from lectern.client import Client
from lectern.v1.notice_pb2 import NOTICE_CODE_LANGUAGE
from training import measures
from training.data import entailment, fresh, sentiments
from training.data.labelled_texts import Split
from training.data.sentiments import Sentiments
from training.measures import Decisions, Evaluation
from training.methods import text_classifier
from training.methods.exported_encoder import ENCODER
from training.run import Run
from training.served import Track
from training.trained import Trained

NEEDS = {"encoder": ENCODER}
MEMORY = 4
SHIPPED = True
MARGIN = 0.03  # above VADER
TARGET_FRESH = 0.88
LIMITS = Limits(
    intended="Whether an English tweet, review or news sentence speaks well or ill of its subject, or neither.",
    failures=(
        'It reads over negations: of 9 new texts such as "You can\'t go wrong with this recipe.", 4 are classified '
        "correctly; of 42 new texts of all kinds 37.",
        "It was taught English alone: of a text in another language it says something all the same, with a notice.",
    ),
)


def train(run: Run) -> Trained:
    """Fit the layer; compare it with VADER and with word counts, also by kind of text."""
    data = sentiments.load_sliver(run.sliver.with_suffix(".json")) if run.fast else sentiments.load()
    fresh_texts = fresh.texts("sentiments.tsv", data.labels)
    fitted = text_classifier.fit(run, data, fresh_texts)
    signed, positive = sentiments.of_sign(data.test, data.scores)
    has_sign = data.scores != 0
    predicted = {
        "sentiment_classifier": says_positive(fitted.logits)[has_sign],
        "VADER": vader(signed),
        "word counts": says_positive(text_classifier.word_baseline(data))[has_sign],
    }
    evaluation = measured(fitted.logits, data)
    right = {name: classes == positive for name, classes in predicted.items()}
    kinds = np.array(signed.sources)
    return Trained(
        title="Good, bad or neither, as a text says",
        lecture="HW7",
        capability="classify",
        task="sentiment classification",
        description="The sentiment of tweets, reviews and news sentences: a linear layer on "
        "text_encoder's mean vector.",
        graphs={"forward": fitted.graph},
        explanation=Explanation(output="logits", probes=text_classifier.text_probes(run, data, "sentiment")),
        borrowed=NEEDS,
        preprocessing=fitted.preprocessing,
        labels=data.labels,
        decision={"unsure": text_classifier.UNSURE},
        limits=LIMITS,
        metrics=(*evaluation.metrics, *on_fresh(fitted.further[0], fresh_texts)),
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=tuple(
            Baseline(name=name, metric="accuracy", value=float(right[name].mean())) for name in ("VADER", "word counts")
        ),
        tables=(
            Table(
                title="Accuracy of the sign by kind of text",
                columns=("kind", "n", *predicted),
                rows=tuple(
                    (
                        kind,
                        int((kinds == kind).sum()),
                        *(round(float(r[kinds == kind].mean()), 4) for r in right.values()),
                    )
                    for kind in dict.fromkeys(signed.sources)
                ),
            ),
        ),
        data=(sentiments.SOURCE.entry_of(data), entailment.SOURCE.card_entry(sentiments.CAPTIONED, 0, 0)),
        device="CPU",
        parameters=fitted.parameters,
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """The figures of the test split, as served."""
    data = sentiments.load()
    return measured(text_classifier.served(client, track, "sentiment_classifier", data.test, data.labels), data)


def evaluate_fresh(client: Client, track: Track) -> Evaluation:
    """Accuracy on fresh texts, and how many of other languages get a notice."""
    split = fresh.texts("sentiments.tsv", sentiments.LABELS)
    logits = text_classifier.served(client, track, "sentiment_classifier", split, sentiments.LABELS)
    foreign = client.classify_text(list(fresh.other_languages()), "sentiment_classifier").results
    noticed = float(np.mean([any(n.code == NOTICE_CODE_LANGUAGE for n in one.notices) for one in foreign]))
    notices = measures.share("accuracy_fresh_language_notices", noticed, len(foreign))
    return Evaluation((*on_fresh(logits, split), notices))


def on_fresh(logits: NDArray[np.floating], split: Split) -> tuple[Metric, ...]:
    """Accuracy on fresh texts, over all and over each kind's."""
    right, kinds = logits.argmax(axis=1) == split.labels, np.array(split.sources)
    return (
        measures.share("accuracy_fresh", float(right.mean()), len(right), target=TARGET_FRESH),
        *(
            measures.share(f"accuracy_fresh_{kind}", float(right[kinds == kind].mean()), int((kinds == kind).sum()))
            for kind in dict.fromkeys(split.sources)
        ),
    )


def measured(logits: NDArray[np.floating], data: Sentiments) -> Evaluation:
    """Accuracy of the sign where raters say one, with a target above VADER's on the same texts; and of all classes."""
    signed, positive = sentiments.of_sign(data.test, data.scores)
    target = float((vader(signed) == positive).mean()) + MARGIN
    right = says_positive(logits)[data.scores != 0] == positive
    decisions = Decisions.of(logits)
    metrics = (
        measures.share("accuracy", float(right.mean()), len(right), target=target),
        measures.share("accuracy_three_classes", decisions.accuracy(data.test.labels), len(data.test)),
    )
    return measures.classified(decisions, data.test.labels, data.labels, metrics)


def says_positive(logits: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Whether a text is rather positive than negative, however neutral."""
    return logits[:, sentiments.POSITIVE] > logits[:, sentiments.NEGATIVE]


def vader(split: Split) -> NDArray[np.int64]:
    """The sign of VADER's compound score; 0, where it finds nothing, counts as the more frequent one, positive."""
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] >= 0 for text in split.texts], dtype=np.int64)
