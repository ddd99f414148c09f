"""HW7: the part of speech of each word, by BERT.

A linear layer on the vector of each word's first piece, which learned with the encoder
(training/recipes/text_encoder.py) and goes on learning when that is done; validation sentences choose for how long, and
a temperature. The words are those of Universal Dependencies, which takes "don't" for two.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.card import Baseline, Limits
from artifacts.tagging import TaggedSpan, best_tags, spans_of
from lectern.client import Client
from training import measures
from training.data import web_treebank
from training.data.tags import IGNORED, Slot
from training.data.web_treebank import PART_TAGS, PARTS_OF_SPEECH, Sentence
from training.export.onnx import round_to_half
from training.measures import Decisions, Evaluation
from training.methods.calibration import temperature
from training.methods.exported_encoder import ENCODER, PADDING, VECTORS, ExportedEncoder, applied
from training.methods.heads import go_on
from training.methods.reading import TAGS, TagExamples
from training.run import Run
from training.served import Track
from training.trained import Graph, Trained

NEEDS = {"encoder": ENCODER}
MEMORY = 2
SHIPPED = True
TARGET = 0.94
SENTENCES_PER_REQUEST = 64
LIMITS = Limits(
    intended="The parts of speech of English words, as Universal Dependencies has them.",
    failures=(
        "It learned from 1,839 sentences of blogs, mails, reviews and answers, and tells 0.917 of the words of others "
        "like them, short of the target of 0.94.",
    ),
)


class TagHead(nn.Module):
    """Vectors of tokens float32 [N, T, width] -> logits of their tags [N, T, tags]."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.layer(vectors)
        return logits


def train(run: Run) -> Trained:
    """Choose the temperature, and measure."""
    data = web_treebank.load_sliver(run.sliver.with_suffix(".json")) if run.fast else web_treebank.load()
    encoder = ExportedEncoder.of(run.repository)
    layer = encoder.head(TAGS)
    train, validation = (
        words_with_tags(run, encoder, part, what)
        for part, what in ((data.train, "train"), (data.validation, "validation"))
    )
    go_on(layer, train, validation)
    with torch.no_grad():
        warmth = temperature(layer(validation[0]), validation[1])
        for parameter in layer.parameters():
            parameter.div_(warmth)
    round_to_half(layer)
    vectors = vectors_of(run, encoder, data.test, "test")
    tagged = [
        words_of(encoder, sentence, applied(layer, one)) for sentence, one in zip(data.test, vectors, strict=True)
    ]
    evaluation = measured(data.test, tagged)
    example = torch.zeros(4, max(map(len, vectors[:4])), layer.in_features)
    for place, row in zip(example, vectors[:4], strict=True):
        place[: len(row)] = torch.from_numpy(row)
    return Trained(
        title="Parts of speech of words",
        lecture="HW7",
        capability="tag",
        task="part-of-speech tagging",
        description="Noun, verb and fifteen other parts of speech of each word: a linear layer on text_encoder's "
        "vectors.",
        graphs={
            "forward": Graph(
                TagHead(layer), {"vectors": example}, ("tags",), {"vectors": (1,)}, max_batch_size=16, padding=PADDING
            )
        },
        borrowed=NEEDS,
        preprocessing=encoder.preprocessing,
        tags=PART_TAGS,
        limits=LIMITS,
        metrics=evaluation.metrics,
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=(
            Baseline(
                name="the word's most frequent part of speech",
                metric="accuracy",
                value=most_frequent(data.train, data.test),
            ),
        ),
        data=(web_treebank.SOURCE.card_entry(len(data.train), len(data.validation), 0),),
        device="CPU",
        parameters=sum(p.numel() for p in layer.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """The figures of the test split, as served."""
    sentences = web_treebank.load().test
    starts = range(0, len(sentences), SENTENCES_PER_REQUEST)
    tagged = [
        [(Slot(span.label, span.start, span.end), span.probability) for span in result.spans]
        for start in track(starts, len(starts))
        for result in client.tag_text(
            [one.text for one in sentences[start : start + SENTENCES_PER_REQUEST]], "pos_tagger"
        ).results
    ]
    return measured(sentences, tagged)


def vectors_of(
    run: Run, encoder: ExportedEncoder, sentences: Sequence[Sentence], what: str
) -> list[NDArray[np.float32]]:
    """The vectors of the tokens of each sentence [T, width]."""
    examples = TagExamples(encoder.tokenizer, sentences, PART_TAGS, encoder.preprocessing.max_tokens)
    rows = [(one.ids, one.segments) for one in examples.draw(np.random.default_rng(0))]
    starts = range(0, len(rows), SENTENCES_PER_REQUEST)
    return [
        vectors
        for start in run.track(starts, f"{run.name} {what}", len(starts))
        for vectors in encoder.run(rows[start : start + SENTENCES_PER_REQUEST], VECTORS)
    ]


def words_with_tags(
    run: Run, encoder: ExportedEncoder, sentences: Sequence[Sentence], what: str
) -> tuple[Tensor, Tensor]:
    """Vectors [N, width] and tags [N] of the words of sentences."""
    examples = TagExamples(encoder.tokenizer, sentences, PART_TAGS, encoder.preprocessing.max_tokens)
    tags = [torch.tensor(example.answer) for example in examples.draw(np.random.default_rng(0))]
    vectors = map(torch.from_numpy, vectors_of(run, encoder, sentences, what))
    words = [(row[of != IGNORED], of[of != IGNORED]) for row, of in zip(vectors, tags, strict=True)]
    every, right = zip(*words, strict=True)
    return torch.cat(every), torch.cat(right)


def words_of(encoder: ExportedEncoder, sentence: Sentence, logits: NDArray[np.float32]) -> list[tuple[Slot, float]]:
    """The words that tags mark, as the service puts them together, and their probabilities.

    Args:
        logits: of the tags of `[CLS] tokens [SEP]`, [T, tags].
    """
    (encoding,) = encoder.encode([sentence.text])
    numbers = np.array([-1 if word is None else word for word in encoding.word_ids][: len(logits) - 2])
    firsts = np.flatnonzero(np.diff(numbers, prepend=-1) != 0)
    ends = np.append(firsts[1:], len(numbers)) - 1
    scores = torch.from_numpy(logits[1:-1][firsts]).double().log_softmax(1).numpy()
    spans: list[TaggedSpan] = spans_of(best_tags(scores, PART_TAGS).tolist(), PART_TAGS, np.exp(scores))
    return [
        (
            Slot(span.label, encoding.offsets[firsts[span.start]][0], encoding.offsets[ends[span.end - 1]][1]),
            span.probability,
        )
        for span in spans
    ]


def measured(sentences: Sequence[Sentence], tagged: Sequence[Sequence[tuple[Slot, float]]]) -> Evaluation:
    """The figures of the card: of each word of the treebank, what the word is called in which it begins."""
    numbers = {part: i for i, part in enumerate(PARTS_OF_SPEECH)}
    classes, confidences, labels = [], [], []
    for sentence, found in zip(sentences, tagged, strict=True):
        for word in sentence.words:
            part, probability = next(
                ((one.label, p) for one, p in found if one.start <= word.start < one.end), ("X", 0.0)
            )
            classes.append(numbers[part])
            confidences.append(probability)
            labels.append(numbers[word.label])
    decisions, right = Decisions(np.array(classes), np.array(confidences)), np.array(labels)
    metrics = (
        measures.share("accuracy", decisions.accuracy(right), len(right), independent=len(sentences), target=TARGET),
    )
    return measures.classified(decisions, right, PARTS_OF_SPEECH, metrics)


def most_frequent(train: Sequence[Sentence], test: Sequence[Sentence]) -> float:
    """The accuracy of what each word is most often in training; a new one is a noun."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sentence in train:
        for word in sentence.words:
            seen[sentence.text[word.start : word.end].lower()][word.label] += 1
    best = {text: counts.most_common(1)[0][0] for text, counts in seen.items()}
    right = [
        best.get(sentence.text[word.start : word.end].lower(), "NOUN") == word.label
        for sentence in test
        for word in sentence.words
    ]
    return float(np.mean(right))
