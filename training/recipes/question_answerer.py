"""HW7: answers to questions, as spans of a text, by BERT; and the encoder that the three text models share.

MiniLM (training/methods/text_encoder.py) is fine-tuned as BERT was for SQuAD (Devlin et al., "BERT", 2019): two scores
for each token, of being the answer's first and last, with [CLS] for "no answer". A name that the context has several
times is right wherever it is found (Clark and Gardner, "Simple and Effective Multi-Paragraph Reading Comprehension",
2018). The same training teaches the encoder's mean vector to tell sentiment and spam (multi-task learning: Liu et al.,
"MT-DNN", 2019), so that `sentiment_classifier` and `spam_classifier` need but a linear layer on what this graph gives.
The graph is in 8 bits (training/export/int8.py).
"""

from __future__ import annotations

import itertools
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, DataSource, Limits, Metric, Table, TextPreprocessing
from artifacts.versions import read_card
from artifacts.windows import best_spans, padded, question_windows
from lectern.client import Client
from training import measures
from training.cpu import cpu_name
from training.data import fresh, mails, questions, sentiments, sword
from training.data.labelled_texts import LabelledTexts
from training.data.questions import NAME, XQUAD, Question, Questions, unanswerable
from training.export.int8 import to_int8
from training.export.onnx import export_graph, round_to_half, stored_weights
from training.measures import Evaluation
from training.methods import text_encoder
from training.methods.reading import (
    QUESTION,
    Batch,
    Example,
    QuestionExamples,
    TextExamples,
    batches,
    span_loss,
)
from training.methods.text_encoder import TOKENIZER, WEIGHTS, Shape, TextEncoder
from training.optimise import triangle
from training.run import Run, device_name
from training.served import Track
from training.trained import FLOAT32, INT8, Graph, Tolerance, Trained

NEEDS: dict[str, str] = {}
MEMORY = 4
SHIPPED = True
TARGET_EXACT_MATCH, TARGET_XQUAD = 0.80, 0.50
MAX_TOKENS = 256
MAIL_CHARACTERS = 4000  # of each mail, from its beginning, that training reads
TEST_UNANSWERABLE = 2  # one test question in so many is asked of a context that does not answer it
TIMED_RUNS = 20
THRESHOLDS = np.linspace(0.05, 0.99, 48)
MOST_REFUSED = 0.05  # of answerable questions
# Of config.pbtxt: a run costs about as much as 8 tokens more, and a batch beyond 256 is slower for each token.
PADDING = {"padded_axis": 1, "pad_value": 0, "pad_multiple": 8, "batch_budget": 256}
WORDS = re.compile(r"\w+")
LIMITS = Limits(
    intended="Short answers that stand in an English text, to questions about it.",
    failures=(
        "Nearly all of its training questions are names blanked out in verses: exact match on such, 0.979, says "
        "little of human questions, of which version 2 answers 0.291 exactly (F1 0.422), short of the target of "
        "0.50.",
        "Version 1 answers 0.63 of 30 questions on new texts exactly (F1 0.71), and refuses 7 of 15 that the text "
        "does not answer.",
        "A wrong answer may have a probability of 1.00.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        tokens: of a training batch, padding included.
        window, text_window: most tokens of a training question with its context, and of a training text.
        xquad_passes: how often an epoch sees each of XQuAD's questions.
        one_in: of the masked names, and of QAMR's questions, which are many on each sentence, so few are learned from.
        unanswerable: one training question in so many comes again with a context that does not answer it.
        most_frequent: pieces of the vocabulary that are kept whether or not training texts have them.
        least: how often training texts must have any other piece that is kept.
        shape: of an encoder that is not pretrained; None = the pretrained one.
    """

    epochs: int = 3
    tokens: int = 4096
    window: int = 160
    text_window: int = 96
    xquad_passes: int = 2
    one_in: int = 3
    unanswerable: int = 4
    peak_learning_rate: float = 1.5e-4
    warm_up: float = 0.06
    weight_decay: float = 0.01
    dropout: float = 0.1
    most_frequent: int = 4000
    least: int = 50
    shape: Shape | None = None


FULL = Settings()
FAST = Settings(
    epochs=1, window=96, text_window=48, xquad_passes=1, most_frequent=200, shape=Shape(32, 1, 2, MAX_TOKENS)
)


@dataclass(frozen=True)
class Data:
    """The data sets that the encoder learns from."""

    bible: Questions
    xquad: Questions
    wiki: Questions
    qamr: Questions
    sentiments: LabelledTexts
    mails: LabelledTexts

    def texts(self) -> Iterator[str]:
        """Every training text."""
        for question in (*self.bible.train, *self.xquad.train, *self.wiki.train, *self.qamr.train):
            yield from (question.question, question.context)
        yield from self.sentiments.train.texts
        yield from (mail[:MAIL_CHARACTERS] for mail in self.mails.train.texts)


class Reader(nn.Module):
    """Ids and segments int64 [N, T] -> logits of the answer's first and last token [N, T], mean vector [N, width]."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.span = nn.Linear(encoder.width, 2)

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.read(self.encoder(ids, segments), ids)

    def read(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the tokens' vectors [N, T, width] say."""
        starts, ends = self.span(vectors).unbind(-1)
        mask = (ids != 0)[:, :, None].to(vectors.dtype)
        return starts, ends, (vectors * mask).sum(1) / mask.sum(1)


class Explained(nn.Module):
    """A reader as it is exported: also gives the last layer's attention [N, T, T]."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, ...]:
        vectors, attention = self.reader.encoder.with_attention(ids, segments)
        return *self.reader.read(vectors, ids), attention


class Tasks(nn.Module):
    """A reader with the classifiers that teach its mean vector."""

    def __init__(self, reader: Reader, classes: dict[str, int]) -> None:
        super().__init__()
        self.reader = reader
        self.heads = nn.ModuleDict({task: nn.Linear(reader.encoder.width, count) for task, count in classes.items()})

    def forward(self, task: str, ids: Tensor, segments: Tensor, answers: Tensor) -> Tensor:
        """The loss of a batch."""
        starts, ends, mean = self.reader(ids, segments)
        if task != QUESTION:
            return F.cross_entropy(self.heads[task](mean).float(), answers)
        return (span_loss(starts, answers[:, 0], segments) + span_loss(ends, answers[:, 1], segments)) / 2


def train(run: Run) -> Trained:
    """Fine-tune on the six data sets; the card's figures are of the 8-bit graph."""
    settings = FAST if run.fast else FULL
    fabric = run.fabric("bf16-mixed")
    data = load_sliver(run.sliver) if run.fast else load()
    texts = list(data.texts())
    encoder, tokenizer = (
        text_encoder.small(texts, settings.shape, settings.most_frequent)
        if settings.shape
        else text_encoder.pretrained(texts, settings.most_frequent, settings.least, settings.dropout)
    )
    reader = fit(run, fabric, settings, data, Reader(encoder), tokenizer)
    return described(run, data, round_to_half(reader), tokenizer, device_name(fabric))


def requantize(run: Run) -> Trained:
    """The served version's weights in 8 bits as training/export/int8.py makes them now, measured anew."""
    card = read_card(run.repository / run.name)
    directory = run.repository / run.name / str(card.version)
    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))
    run.seconds = card.training.seconds
    data = load_sliver(run.sliver) if run.fast else load()
    reader = restore((directory / "model.onnx").read_bytes(), FAST.shape if run.fast else Shape())
    return described(run, data, reader, tokenizer, card.training.device)


def restore(content: bytes, shape: Shape | None) -> Reader:
    """The reader of an exported file of that shape, its weights as floats."""
    stored = {name.removeprefix("reader."): value for name, value in stored_weights(content).items()}
    weights = {}
    for name in [name for name in stored if name.endswith((".weight", ".bias"))]:
        scale = stored.get(name.removesuffix("weight") + "scale")
        if scale is not None:
            # Tables have a scale for each row; other weights are kept with the inputs first, a scale for each output.
            weights[name] = stored[name] * scale if scale.ndim == 2 else (stored[name] * scale).T
        else:
            weights[name] = stored[name]
    reader = Reader(TextEncoder(len(weights["encoder.tokens.weight"]), shape or Shape()))
    reader.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()})
    return reader.eval()


def described(run: Run, data: Data, reader: Reader, tokenizer: Tokenizer, device: str) -> Trained:
    """A trained reader in 8 bits, and what its card says."""
    parameters = sum(p.numel() for p in reader.parameters())
    example = example_inputs(tokenizer, data.bible.test[:4])
    exact = graph_of(deepcopy(reader), example)
    graph = graph_of(to_int8(reader), example, INT8)
    answerers = {"float32": Answerer(exported(exact), tokenizer), "int8": Answerer(exported(graph), tokenizer)}
    threshold = no_answer_threshold(run, answerers["int8"], human(data))
    tests = (data.bible.test, data.xquad.test, unanswerable(data.bible.test, TEST_UNANSWERABLE))
    scores = {
        name: [
            score(run.track(test, f"{run.name} {name}"), partial(answerer.answer, threshold=threshold))
            for test in tests
        ]
        for name, answerer in answerers.items()
    }
    bible, xquad, _ = scores["int8"]
    return Trained(
        title="Answers to questions on a text",
        lecture="HW7",
        capability="answer",
        task="question answering",
        description="MiniLM, fine-tuned to point at the span of a text that answers a question, or to say that none "
        "does; in 8 bits. The mean of its vectors is what sentiment_classifier and spam_classifier read.",
        graphs={"forward": replace(graph, onnx=answerers["int8"].content)},
        preprocessing=TextPreprocessing(tokenizer=TOKENIZER, max_tokens=MAX_TOKENS),
        assets={TOKENIZER: tokenizer.to_str().encode()},
        decision={"no_answer": threshold},
        limits=LIMITS,
        metrics=metrics(bible, xquad),
        baselines=baselines(data),
        tables=(comparison(answerers, scores),),
        data=sources(data),
        device=device,
        parameters=parameters,
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """What the server answers to every test question."""

    def ask(question: Question) -> str:
        (result,) = client.answer(question.question, question.context).results
        return result.answers[0].text if result.has_answer else ""

    tests = (questions.load_bible().test, questions.load_xquad().test)
    everything = iter(track(itertools.chain(*tests), sum(map(len, tests))))
    return Evaluation(metrics(*(score(list(itertools.islice(everything, len(test))), ask) for test in tests)))


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


def load() -> Data:
    """Everything, fetched on first use (48 MB)."""
    return Data(
        questions.load_bible(),
        questions.load_xquad(),
        questions.load_wiki(),
        questions.load_qamr(),
        sentiments.load(),
        mails.load(),
    )


def load_sliver(path: Path) -> Data:
    """The committed slivers of the three text models."""
    bible, xquad = questions.load_sliver(path.with_suffix(".json"))
    return Data(
        bible,
        xquad,
        xquad,
        xquad,
        sentiments.load_sliver(path.with_name("sentiment_classifier.json")),
        mails.load_sliver(path.with_name("spam_classifier.json")),
    )


def fit(run: Run, fabric: Fabric, settings: Settings, data: Data, reader: Reader, tokenizer: Tokenizer) -> Reader:
    """Train on all tasks at once; the validation questions are only watched."""
    drawers = examples_of(settings, data, tokenizer)
    watched = QuestionExamples(tokenizer, human(data), settings.window)
    tasks = Tasks(reader, {"sentiment": len(data.sentiments.labels), "spam": len(data.mails.labels)})
    reader.encoder.tokens.requires_grad_(False)  # most pieces are too rare here to learn anything new about them
    trained = [p for p in tasks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.peak_learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * len(epoch_of(settings, drawers, run.seed, 0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangle(step / steps, settings.warm_up))
    model, optimizer = fabric.setup(tasks, optimizer)
    losses: dict[str, list[float]] = {}

    def loss(batch: Batch) -> Tensor:
        value: Tensor = model(batch.task, *batch.tensors)
        losses.setdefault(batch.task, []).append(float(value.detach()))
        return value

    @torch.no_grad()
    def watch() -> dict[str, float]:
        means = {f"{task}_loss": float(np.mean(values)) for task, values in losses.items()}
        losses.clear()
        model.eval()
        ahead = batches(list(watched.draw(np.random.default_rng(0))), settings.tokens, np.random.default_rng(0))
        validation = float(np.mean([float(model(batch.task, *fabric.to_device(batch.tensors))) for batch in ahead]))
        return {**means, "validation_question_loss": validation}

    run.fit(
        fabric,
        model,
        optimizer,
        lambda epoch: epoch_of(settings, drawers, run.seed, epoch),
        loss,
        epochs=settings.epochs,
        settings=settings,
        schedule=schedule,
        largest_gradient=1.0,
        watch=watch,
    )
    return reader.eval().cpu()


def examples_of(settings: Settings, data: Data, tokenizer: Tokenizer) -> list[QuestionExamples | TextExamples]:
    """What an epoch draws from."""
    few = [part.train[:: settings.one_in] for part in (data.bible, data.qamr)]
    sources = [*few, data.wiki.train, data.xquad.train * settings.xquad_passes]
    asked = [question for source in sources for question in source]
    asked += [
        q for source in (*few, data.wiki.train, data.xquad.train) for q in unanswerable(source, settings.unanswerable)
    ]
    return [
        QuestionExamples(tokenizer, asked, settings.window),
        TextExamples("sentiment", tokenizer, data.sentiments.train, settings.text_window, MAIL_CHARACTERS),
        TextExamples("spam", tokenizer, data.mails.train, settings.text_window, MAIL_CHARACTERS),
    ]


def epoch_of(
    settings: Settings, drawers: Sequence[QuestionExamples | TextExamples], seed: int, epoch: int
) -> list[Batch]:
    """The batches of an epoch."""
    random = np.random.default_rng((seed, epoch))
    examples: list[Example] = [example for drawer in drawers for example in drawer.draw(random)]
    return batches(examples, settings.tokens, random)


def graph_of(reader: Reader, inputs: dict[str, Tensor], tolerance: Tolerance = FLOAT32) -> Graph:
    """A reader as it is exported."""
    axes: dict[str, tuple[int, ...]] = dict.fromkeys(inputs, (1,))
    outputs = ("starts", "ends", "mean_vector", "attention")
    return Graph(
        Explained(reader.eval()), inputs, outputs, axes, max_batch_size=16, padding=PADDING, tolerance=tolerance
    )


def example_inputs(tokenizer: Tokenizer, asked: Sequence[Question]) -> dict[str, Tensor]:
    """Real rows for the graph's inputs."""
    rows = QuestionExamples(tokenizer, asked, MAX_TOKENS).draw(np.random.default_rng(0))
    pairs = zip(*((row.ids, row.segments) for row in rows), strict=True)
    ids, segments = (torch.from_numpy(padded(list(part))) for part in pairs)
    return {"ids": ids, "segments": segments}


def exported(graph: Graph) -> bytes:
    """The ONNX file of a graph."""
    with TemporaryDirectory() as directory:
        export_graph(graph, path := Path(directory) / "model.onnx")
        return path.read_bytes()


class Answerer:
    """An ONNX file that answers as the service does."""

    def __init__(self, content: bytes, tokenizer: Tokenizer) -> None:
        self.content = content
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options)
        self._tokenizer = tokenizer

    def best(self, question: Question) -> tuple[str, float]:
        """The most probable answer, and the probability that there is none."""
        asked, context = self._tokenizer.encode_batch([question.question, question.context], add_special_tokens=False)
        windows = question_windows(asked.ids, context.ids, MAX_TOKENS)
        inputs = {"ids": windows.ids, "segments": windows.segments}
        starts, ends = self._session.run(["starts", "ends"], inputs)
        (span,), none = best_spans(
            starts, ends, windows, [-1 if word is None else word for word in context.word_ids], 1
        )
        return question.context[context.offsets[span.start][0] : context.offsets[span.end][1]], none

    def answer(self, question: Question, threshold: float) -> str:
        """The answer; empty if it says that there is none."""
        text, none = self.best(question)
        return "" if none > threshold else text

    def milliseconds(self, tokens: int = MAX_TOKENS) -> float:
        """The fastest of several runs of one window, on one thread."""
        inputs = {name: np.ones((1, tokens), dtype=np.int64) for name in ("ids", "segments")}
        fastest = float("inf")
        for _ in range(TIMED_RUNS):
            started = time.perf_counter()
            self._session.run(["starts", "ends"], inputs)
            fastest = min(fastest, 1000 * (time.perf_counter() - started))
        return fastest


def human(data: Data) -> tuple[Question, ...]:
    """Validation questions of people, some of each set."""
    return (*data.xquad.validation, *data.wiki.validation[::4], *data.qamr.validation[::16])


def no_answer_threshold(run: Run, answerer: Answerer, asked: Sequence[Question]) -> float:
    """The probability of "no answer" above which it is believed: of those that refuse few answerable questions, the one
    that decides most rightly.

    Args:
        asked: validation questions; of some the answer is asked of a context that lacks it too.
    """
    every = (*asked, *unanswerable(asked, TEST_UNANSWERABLE))
    best = [answerer.best(q) for q in run.track(every, f"{run.name} threshold", len(every))]
    none = np.array([probability for _, probability in best])
    right = np.array([exact_match(text, q.answers) for (text, _), q in zip(best, every, strict=True)])
    answerable = np.array([bool(q.spans) for q in every])
    candidates = [c for c in THRESHOLDS if (none[answerable] > c).mean() <= MOST_REFUSED] or [THRESHOLDS[-1]]
    decided = [(np.where(none > c, ~answerable, answerable & right)).mean() for c in candidates]
    return round(float(candidates[int(np.argmax(decided))]), 2)


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


def score(asked: Sequence[Question] | Iterator[Question], answer: Callable[[Question], str]) -> Score:
    """SQuAD's two figures (Rajpurkar et al., 2016); to a question without answer, nothing is the right answer."""
    pairs = [(answer(question), question.answers or ("",)) for question in asked]
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
        measures.share("exact_match_xquad", xquad.exact_match, len(xquad.matches), target=TARGET_XQUAD),
        measures.mean("f1_xquad", xquad.overlaps),
        measures.share("exact_match", bible.exact_match, len(bible.matches), target=TARGET_EXACT_MATCH),
        measures.mean("f1", bible.overlaps),
    )


def comparison(answerers: dict[str, Answerer], scores: dict[str, list[Score]]) -> Table:
    """Both arithmetics side by side."""
    rows = []
    for name, answerer in answerers.items():
        bible, xquad, refused = scores[name]
        size = round(len(answerer.content) / 1e6, 2)
        figures = (bible.exact_match, bible.f1, xquad.exact_match, xquad.f1, refused.exact_match)
        rows.append((name, size, round(answerer.milliseconds(), 1), *(round(figure, 4) for figure in figures)))
    return Table(
        title=f"32 and 8 bits on the test split, timed on {cpu_name()}",
        columns=(
            *("arithmetic", "MB", f"ms for {MAX_TOKENS} tokens, one thread"),
            *("exact match", "F1", "XQuAD exact match", "XQuAD F1", "unanswerable questions refused"),
        ),
        rows=tuple(rows),
    )


def baselines(data: Data) -> tuple[Baseline, ...]:
    """What a name of the most similar sentence answers."""
    name = "a name in the sentence that shares most words"
    splits = {"exact_match_xquad": data.xquad.test, "exact_match": data.bible.test}
    return tuple(
        Baseline(name=name, metric=metric, value=score(tests, likeliest_name).exact_match)
        for metric, tests in splits.items()
    )


def likeliest_name(question: Question) -> str:
    """The first name, not in the question, in the sentence of the context that shares most words with it."""
    words = set(WORDS.findall(question.question.lower()))
    sentences = re.split(r"(?<=[.;?!]) ", question.context)
    for sentence in sorted(sentences, key=lambda s: -len(words & set(WORDS.findall(s.lower())))):
        if names := [name for name in NAME.findall(sentence) if name not in question.question]:
            return str(names[0])
    return ""


def sources(data: Data) -> tuple[DataSource, ...]:
    """What the card says about the data."""
    return (
        WEIGHTS.card_entry(0, 0, 0),
        *(
            source.entry_of(part)
            for source, part in (
                (sword.KJV, data.bible),
                (sword.WEB, data.bible),
                (XQUAD, data.xquad),
                (questions.WIKI, data.wiki),
                (questions.QAMR, data.qamr),
                (sentiments.SOURCE, data.sentiments),
                (mails.SOURCE, data.mails),
            )
        ),
    )
