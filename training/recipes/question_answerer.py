"""HW7: answers to questions, as spans of a text, by BERT.

As BERT was taught SQuAD (Devlin et al., "BERT", 2019): two scores for each token, of being the answer's first and last,
with [CLS] for "no answer", by a linear layer that learned with the encoder (training/recipes/text_encoder.py). The
scores are divided by a temperature, so that probabilities mean what they say (Guo et al., "On Calibration of Modern
Neural Networks", 2017), and a threshold on the probability of "no answer" decides; validation questions choose both.
"""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.card import Baseline, Calibration, Limits, Metric
from artifacts.windows import Windows, best_spans, question_windows
from lectern.client import Client
from training import measures
from training.data import fresh, questions
from training.data.questions import NAME, Question, unanswerable
from training.data.text_tasks import human_validation, load, load_sliver, sources
from training.export.onnx import round_to_half
from training.measures import Decisions, Evaluation
from training.methods.exported_encoder import ENCODER, PADDING, VECTORS, ExportedEncoder, Row, applied
from training.methods.reading import QUESTION
from training.methods.text_encoder import WEIGHTS
from training.run import Run
from training.served import Track
from training.trained import Graph, Trained

NEEDS = {"encoder": ENCODER}
MEMORY = 4
SHIPPED = True
TARGET_EXACT_MATCH, TARGET_XQUAD_F1 = 0.80, 0.70
TEST_UNANSWERABLE = 2  # one test question in so many is asked of a context that does not answer it
TEMPERATURES = np.geomspace(0.5, 4, 22)
THRESHOLDS = np.geomspace(0.001, 0.99, 60)
MOST_REFUSED = 0.05  # of answerable questions
TINY = 1e-6
WORDS = re.compile(r"\w+")
LIMITS = Limits(
    intended="Short answers that stand in an English text, to questions about it.",
    failures=(
        "Of XQuAD's questions on articles that it has not seen, version 4 answers 0.464 exactly (F1 0.633, short of "
        "the target of 0.70); of 39 new questions 0.872.",
        "Of 15 new questions that their passage does not answer it answers one all the same.",
        "It may refuse a question in other words than the text's: that FitzRoy was captain it finds, but not who "
        '"commanded the ship".',
    ),
)


class SpanHead(nn.Module):
    """Vectors of tokens float32 [N, T, width] -> logits of the answer's first and last token [N, T]."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        starts, ends = self.layer(vectors).unbind(-1)
        return starts, ends


def train(run: Run) -> Trained:
    """Choose the temperature and the threshold, and measure."""
    data = load_sliver(run.sliver) if run.fast else load()
    encoder = ExportedEncoder.of(run.repository)
    answerer = Answerer(encoder, encoder.head(QUESTION))
    bible, xquad = data.bible.test, data.encyclopedia[0].test
    threshold = calibrate(run, answerer, human_validation(data))
    refusable = unanswerable((*bible, *xquad), TEST_UNANSWERABLE)
    best = {
        name: [answerer.best(question) for question in run.track(asked, f"{run.name} {name}", len(asked))]
        for name, asked in (("bible", bible), ("xquad", xquad), ("refused", refusable))
    }
    said = {name: ["" if one.none > threshold else one.text for one in found] for name, found in best.items()}
    return Trained(
        title="Answers to questions on a text",
        lecture="HW7",
        capability="answer",
        task="question answering",
        description="Points at the span of a text that answers a question, or says that none does: a linear layer on "
        "text_encoder's vectors.",
        graphs={"forward": graph_of(answerer, bible[:4])},
        borrowed=NEEDS,
        preprocessing=encoder.preprocessing,
        decision={"no_answer": threshold},
        limits=LIMITS,
        metrics=(
            *metrics(score(bible, said["bible"]), score(xquad, said["xquad"])),
            measures.share("accuracy_refused", score(refusable, said["refused"]).exact_match, len(refusable)),
        ),
        calibration=calibration(xquad, best["xquad"]),
        baselines=baselines(bible, xquad),
        data=(WEIGHTS.card_entry(0, 0, 0), *sources(data)),
        device="CPU",
        parameters=sum(p.numel() for p in answerer.layer.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """What the server answers to every test question."""

    def ask(question: Question) -> str:
        (result,) = client.answer(question.question, question.context).results
        return result.answers[0].text if result.has_answer else ""

    tests = (questions.load_bible().test, questions.load_xquad().test)
    said = map(ask, track(itertools.chain(*tests), sum(map(len, tests))))
    return Evaluation(metrics(*(score(test, itertools.islice(said, len(test))) for test in tests)))


def evaluate_fresh(client: Client, track: Track) -> Evaluation:
    """Questions on new passages: those that are answered, and refused if the passage does not answer them."""
    asked = fresh.questions()
    answers = []
    for question in track(asked, len(asked)):
        (result,) = client.answer(question.question, question.context).results
        answers.append(result.answers[0].text if result.has_answer else "")
    answerable = [(answer, q.answers) for answer, q in zip(answers, asked, strict=True) if q.answers]
    refused = [not answer for answer, q in zip(answers, asked, strict=True) if not q.answers]
    missed = [not answer for answer, _ in answerable]
    return Evaluation(
        (
            measures.share(
                "exact_match_fresh",
                float(np.mean([exact_match(*pair) for pair in answerable])),
                len(answerable),
                target=0.75,
            ),
            measures.mean("f1_fresh", [word_f1(*pair) for pair in answerable]),
            measures.share("accuracy_fresh_refused", float(np.mean(refused)), len(refused), target=0.80),
            measures.share(
                "accuracy_fresh_falsely_refused", float(np.mean(missed)), len(missed), target=0.05, at_most=True
            ),
        )
    )


@dataclass(frozen=True)
class Best:
    """The most probable answer, its probability, and that of there being none."""

    text: str
    probability: float
    none: float


class Answerer:
    """An encoder and a layer on its vectors, which answer as the service does."""

    def __init__(self, encoder: ExportedEncoder, layer: nn.Linear) -> None:
        self.encoder, self.layer = encoder, layer

    def best(self, question: Question) -> Best:
        """The most probable answer."""
        windows, words, offsets = self._windows(question)
        return best_of(question, *self._logits(windows), windows, words, offsets)

    def at_temperatures(self, question: Question) -> list[Best]:
        """The most probable answer by scores that are divided by each of `TEMPERATURES`."""
        windows, words, offsets = self._windows(question)
        starts, ends = self._logits(windows)
        return [best_of(question, starts / t, ends / t, windows, words, offsets) for t in TEMPERATURES]

    def vectors(self, question: Question) -> NDArray[np.float32]:
        """Of the tokens of the first window [T, width]."""
        windows, *_ = self._windows(question)
        return self.encoder.run(rows_of(windows)[:1], VECTORS)[0]

    def _windows(self, question: Question) -> tuple[Windows, list[int], list[tuple[int, int]]]:
        """The windows of a question's context, and of each of its tokens the word and the characters."""
        asked, context = self.encoder.encode([question.question, question.context])
        windows = question_windows(asked.ids, context.ids, self.encoder.preprocessing.max_tokens)
        return windows, [-1 if word is None else word for word in context.word_ids], context.offsets

    def _logits(self, windows: Windows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the first and last token in each window [N, T]."""
        logits = np.zeros((*windows.ids.shape, 2), np.float32)
        for row, vectors in zip(logits, self.encoder.run(rows_of(windows), VECTORS), strict=True):
            row[: len(vectors)] = applied(self.layer, vectors)
        return logits[..., 0], logits[..., 1]


def rows_of(windows: Windows) -> list[Row]:
    """Windows without their padding."""
    lengths = windows.lengths.tolist()
    return [(i[:n].tolist(), s[:n].tolist()) for i, s, n in zip(windows.ids, windows.segments, lengths, strict=True)]


def best_of(
    question: Question,
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
    windows: Windows,
    words: Sequence[int],
    offsets: Sequence[tuple[int, int]],
) -> Best:
    """The most probable answer by the logits of a context's windows."""
    (span, *_), none = best_spans(starts, ends, windows, words, 1)
    return Best(question.context[offsets[span.start][0] : offsets[span.end][1]], span.probability, none)


def graph_of(answerer: Answerer, asked: Sequence[Question]) -> Graph:
    """The layer as it is exported, with real vectors for its input."""
    rows = [answerer.vectors(question) for question in asked]
    vectors = torch.zeros(len(rows), max(map(len, rows)), rows[0].shape[1])
    for place, row in zip(vectors, rows, strict=True):
        place[: len(row)] = torch.from_numpy(row)
    head = SpanHead(answerer.layer).eval()
    axes: dict[str, tuple[int, ...]] = {"vectors": (1,)}
    return Graph(head, {"vectors": vectors}, ("starts", "ends"), axes, max_batch_size=16, padding=PADDING)


def calibrate(run: Run, answerer: Answerer, asked: Sequence[Question]) -> float:
    """Divide the layer by the temperature at which probabilities fit best how often answers are right and refusals are;
    then the probability of "no answer" above which it is believed: of those that refuse few answerable questions, the
    one that decides most rightly.

    Args:
        asked: validation questions; of some the answer is asked of a context that lacks it too.
    """
    every = (*asked, *unanswerable(asked, TEST_UNANSWERABLE))
    read = run.track(map(answerer.at_temperatures, every), f"{run.name} calibration", len(every))
    by_temperature = list(zip(*read, strict=True))
    answerable = np.array([bool(question.spans) for question in every])
    right = score(every, [one.text for one in by_temperature[0]]).matches & answerable

    def surprise(best: Sequence[Best]) -> float:
        answered = np.where(right, [one.probability for one in best], [1 - one.probability for one in best])
        refused = np.where(answerable, [1 - one.none for one in best], [one.none for one in best])
        return -float(np.log(np.maximum(answered, TINY)).mean() + np.log(np.maximum(refused, TINY)).mean())

    chosen = int(np.argmin([surprise(best) for best in by_temperature]))
    with torch.no_grad():
        for parameter in answerer.layer.parameters():
            parameter.div_(TEMPERATURES[chosen])
    round_to_half(answerer.layer)
    none = np.array([one.none for one in by_temperature[chosen]])
    candidates = [c for c in THRESHOLDS if (none[answerable] > c).mean() <= MOST_REFUSED] or [THRESHOLDS[-1]]
    decided = [np.where(none > c, ~answerable, right).mean() for c in candidates]
    return round(float(candidates[int(np.argmax(decided))]), 4)


@dataclass(frozen=True)
class Score:
    """Which answers are right [N], and how far they overlap with right ones [N]."""

    matches: NDArray[np.bool_]
    overlaps: NDArray[np.float64]

    @property
    def exact_match(self) -> float:
        """The share of right answers."""
        return float(self.matches.mean())

    @property
    def f1(self) -> float:
        """The mean overlap."""
        return float(self.overlaps.mean())


def score(asked: Sequence[Question], said: Iterable[str]) -> Score:
    """SQuAD's two figures (Rajpurkar et al., 2016); to a question without answer, nothing is the right answer."""
    pairs = [(answer, question.answers or ("",)) for question, answer in zip(asked, said, strict=True)]
    return Score(np.array([exact_match(*pair) for pair in pairs]), np.array([word_f1(*pair) for pair in pairs]))


def exact_match(answer: str, right: Sequence[str]) -> bool:
    """Whether it is a right answer, but for case, punctuation and articles."""
    return normal(answer) in map(normal, right)


def word_f1(answer: str, right: Sequence[str]) -> float:
    """The overlap of words with the nearest right answer."""
    best = 0.0
    for one in right:
        words, wanted = normal(answer).split(), normal(one).split()
        shared = sum((Counter(words) & Counter(wanted)).values())
        total = len(words) + len(wanted)
        best = max(best, 2 * shared / total if total else 1.0)
    return best


def normal(text: str) -> str:
    """As SQuAD's own script compares texts."""
    text = "".join(" " if character in "’”“" else character for character in text.lower())
    text = "".join(character for character in text if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def metrics(bible: Score, xquad: Score) -> tuple[Metric, ...]:
    """The figures of the card, those of human questions first."""
    return (
        measures.share("exact_match_xquad", xquad.exact_match, len(xquad.matches)),
        measures.mean("f1_xquad", xquad.overlaps, target=TARGET_XQUAD_F1),
        measures.share("exact_match", bible.exact_match, len(bible.matches), target=TARGET_EXACT_MATCH),
        measures.mean("f1", bible.overlaps),
    )


def calibration(asked: Sequence[Question], best: Sequence[Best]) -> Calibration:
    """How often answers are right that have a probability."""
    right = score(asked, [one.text for one in best]).matches.astype(np.int64)
    return measures.calibration(Decisions(right, np.array([one.probability for one in best])), np.ones_like(right))


def baselines(bible: Sequence[Question], xquad: Sequence[Question]) -> tuple[Baseline, ...]:
    """What a name of the most similar sentence answers."""
    name = "a name in the sentence that shares most words"
    return tuple(
        Baseline(name=name, metric=metric, value=score(tests, map(likeliest_name, tests)).exact_match)
        for metric, tests in (("exact_match_xquad", xquad), ("exact_match", bible))
    )


def likeliest_name(question: Question) -> str:
    """The first name, not in the question, in the sentence of the context that shares most words with it."""
    words = set(WORDS.findall(question.question.lower()))
    sentences = re.split(r"(?<=[.;?!]) ", question.context)
    for sentence in sorted(sentences, key=lambda s: -len(words & set(WORDS.findall(s.lower())))):
        if names := [name for name in NAME.findall(sentence) if name not in question.question]:
            return str(names[0])
    return ""
