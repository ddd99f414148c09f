"""Attention and memory: questions about a story, answered by looking at its sentences again and again.

An end-to-end memory network (Sukhbaatar et al., "End-To-End Memory Networks", 2015): each hop compares what is known so
far with every sentence, by attention, and takes up what those say. Words count by their place in a sentence, sentences
by their age; the vectors with which a hop reads are those with which the next compares (adjacent weights); attention is
linear at first. Gates decide what each hop takes up (Liu and Perez, "Gated End-to-End Memory Networks", 2017), and a
hidden layer counts and compares before the answer. One network learns all tasks; now and then words get stand-ins, so
that it can read a story of people it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from lightning.fabric import Fabric, seed_everything
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, Limits, Metric, StoryPreprocessing, Table
from artifacts.stories import FIRST_STAND_IN, FIRST_WORD, STAND_INS, Story, Word, story
from artifacts.windows import PAD
from lectern.client import Client
from training import measures
from training.data import babi, fresh
from training.data.babi import PEOPLE, PLACES, TASKS, THINGS, Question, Stories
from training.export.onnx import round_to_half
from training.measures import Decisions, Evaluation
from training.methods.calibration import temperature
from training.methods.text_encoder import HIDDEN, SPECIAL, TOKENIZER, UNKNOWN
from training.optimise import triangle
from training.run import Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
SHIPPED = True
MEMORY = 2
TARGET = 0.95
SENTENCES, WORDS = 50, 16
UNSURE = 0.6
ROWS_AT_ONCE = 500
LIMITS = Limits(
    intended="Stories of short English sentences about who goes where, takes what, and is afraid of whom, as in bAbI, "
    "and questions on them of which the answer is a word or a list of things.",
    failures=(
        "It always answers, with one of the words that answered in its data or a word that it has never seen.",
        "It knows some 90 words. Any other it takes for a name: of a new verb it cannot know what it means.",
        "It remembers 50 sentences of 16 words at most; of a longer story it has forgotten the beginning.",
        "It is least often right about what fits in what, and about how much someone carries.",
        "bAbI's stories are made by a program. A fifth of the test questions of agents-motivations, and up to 2 % of "
        "those of another task, are in the training file with the same story; `accuracy_new` leaves them out.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        width: of the vectors of words.
        hidden: units between what the last hop knows and the answers; twice as many has the state of the LSTM.
        linear: share of the epochs in which attention is linear.
        gaps: places of the memory that stay empty, for each sentence, so that it does not go by exact ages.
        renamed: share of the questions in whose story some words have stand-ins.
        blurred: share of the other words of those stories that have one too.
        epochs, simple_epochs: of the network, and of those that it is compared with.
    """

    width: int = 64
    hops: int = 3
    gated: bool = True
    hidden: int = 64
    linear: float = 0.15
    gaps: float = 0.1
    renamed: float = 0.3
    blurred: float = 0.03
    epochs: int = 22
    simple_epochs: int = 6
    batch_size: int = 192
    rate: float = 3.5e-3


FULL = Settings()
FAST = Settings(width=32, hidden=32, epochs=20, simple_epochs=4, batch_size=32, rate=1e-2)


def weights_of(words: Tensor, width: int) -> Tensor:
    """How much each component of each word's vector counts in its sentence, [.., W, C]: by its depth and by the word's
    place (position encoding)."""
    places = torch.arange(1, words.shape[-1] + 1, device=words.device)
    share = (places / (words != PAD).sum(-1, keepdim=True).clamp(min=1))[..., None]
    depth = torch.arange(1, width + 1, device=words.device) / width
    return (1 - share) - depth * (1 - 2 * share)


class MemoryReader(nn.Module):
    """Sentences as words int64 [U, W], 0 = padding, the first of them empty, the story of each row as numbers of those
    [N, S], its last sentence first, and its question [N, W] -> logits of answers float32 [N, A], and the attention of
    each hop to each sentence [N, H, S]."""

    def __init__(self, words: int, answers: int, settings: Settings) -> None:
        super().__init__()
        width, hops = settings.width, settings.hops
        self.vectors = nn.ModuleList(nn.Embedding(words, width, padding_idx=PAD) for _ in range(hops + 1))
        self.ages = nn.ParameterList(nn.Parameter(0.1 * torch.randn(SENTENCES, width)) for _ in range(hops + 1))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(hops if settings.gated else 0))
        self.answers = nn.Sequential(nn.Linear(width, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, answers))
        self.linear = False
        for table in self.vectors:
            nn.init.normal_(cast(nn.Embedding, table).weight[PAD + 1 :], std=0.1)

    def forward(self, sentences: Tensor, places: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        memory = [
            F.embedding(places, vectors) + ages[: places.shape[1]]
            for vectors, ages in zip(self.encoded(sentences), self.ages, strict=True)
        ]
        return self.answer(memory, places == 0, question)

    def encoded(self, words: Tensor) -> list[Tensor]:
        """Sentences [.., W] as vectors [.., C]: those that each hop compares, and those that the last reads."""
        weights = weights_of(words, self.ages[0].shape[1])
        return [(weights * table(words)).sum(-2) for table in self.vectors]

    def answer(self, memory: Sequence[Tensor], empty: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        """By memories [N, S, C], one more than hops, of which some places [N, S] are empty, and the question [N, W]."""
        attentions = []
        state = (weights_of(question, memory[0].shape[2]) * self.vectors[0](question)).sum(-2)
        for hop, (compared, read) in enumerate(pairwise(memory)):
            scores = (compared * state[:, None]).sum(2)
            weights = scores.masked_fill(empty, 0) if self.linear else scores.masked_fill(empty, HIDDEN).softmax(1)
            attentions.append(weights)
            found = (weights[..., None] * read).sum(1)
            if self.gates:
                gate = self.gates[hop](state).sigmoid()
                state = gate * found + (1 - gate) * state
            else:
                state = state + found
        return self.answers(state), torch.stack(attentions, 1)


class Served(nn.Module):
    """A memory reader of one story a row: sentences int64 [N, S, W] and question [N, W]."""

    def __init__(self, net: MemoryReader) -> None:
        super().__init__()
        self.net = net

    def forward(self, sentences: Tensor, question: Tensor) -> tuple[Tensor, Tensor]:
        encoded = zip(self.net.encoded(sentences), self.net.ages, strict=True)
        return self.net.answer([vectors + ages for vectors, ages in encoded], sentences[..., 0] == PAD, question)


class LstmReader(nn.Module):
    """What a memory is compared with: of the same inputs, it reads the question and then one sentence after another."""

    def __init__(self, words: int, answers: int, settings: Settings) -> None:
        super().__init__()
        self.vectors = nn.Embedding(words, settings.width, padding_idx=PAD)
        self.lstm = nn.LSTM(settings.width, 2 * settings.hidden, batch_first=True)
        self.answers = nn.Linear(2 * settings.hidden, answers)
        self.linear = False

    def forward(self, sentences: Tensor, places: Tensor, question: Tensor) -> tuple[Tensor, None]:
        told = places.flip(1)
        told = told.gather(1, (told == 0).to(torch.uint8).argsort(dim=1, stable=True))  # without gaps
        told_vectors, asked = (
            (weights_of(words, self.vectors.embedding_dim) * self.vectors(words)).sum(-2)
            for words in (sentences, question)
        )
        read = torch.cat([asked[:, None], F.embedding(told, told_vectors)], dim=1)
        lengths = 1 + (told != 0).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(read, lengths, batch_first=True, enforce_sorted=False)
        return self.answers(self.lstm(packed)[1][0][0]), None


NetT = TypeVar("NetT", MemoryReader, LstmReader)


@dataclass(frozen=True)
class Rows:
    """Questions as numbers.

    Args:
        words: of every sentence and question that there is, [U, W]; the first is empty.
        stories: of each question the numbers of its sentences, the last one first, [N, S]; 0 = none.
        questions, answers: their numbers, [N]; an answer that is not known is -1.
    """

    words: NDArray[np.int64]
    stories: NDArray[np.int64]
    questions: NDArray[np.int64]
    answers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Sentences of each story, [N]."""
        sizes: NDArray[np.int64] = (self.stories > 0).sum(axis=1)
        return sizes


Batch: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Sentences int64 [U, W], stories [N, S], questions [N, W], answers [N]."""


def train(run: Run) -> Trained:
    """Learn from the training stories, and measure on the test stories, beside what remembers less."""
    settings = FAST if run.fast else FULL
    data = babi.load_sliver(run.sliver.with_suffix(".json")) if run.fast else babi.load()
    labels = labels_of(data)
    tokenizer = vocabulary_of(data.train)
    fabric = run.fabric()
    reader = Reader(tokenizer, labels)
    net = learn(run, fabric, settings, data, reader, MemoryReader, settings.epochs, "")
    calibrate(net, reader.rows(data.validation))
    round_to_half(net)
    served = Served(net).eval()
    decisions = decided(net, reader.rows(data.test))
    evaluation = measured(data, decisions, labels)
    asked = [reader.story(question) for question in data.test[:8]]
    inputs = {name: torch.from_numpy(np.stack([getattr(s, name) for s in asked])) for name in ("sentences", "question")}
    on_fresh = [answer_of(served, labels, reader.story(question)) for question in fresh.stories()]
    epochs = (settings.epochs, settings.simple_epochs)
    others = simpler(run, fabric, settings, data, reader)
    compared = {name: decided(one, reader.rows(data.test)) for name, one in others}
    return Trained(
        title="Questions about stories",
        lecture="attention and memory",
        capability="answer",
        task="question answering on stories",
        description="A memory network: answers a question about a story of short sentences, and says at which of them "
        "each of its three hops looked.",
        graphs={"forward": Graph(served, inputs, ("logits", "attention"))},
        preprocessing=StoryPreprocessing(tokenizer=TOKENIZER, max_sentences=SENTENCES, max_words=WORDS),
        labels=labels,
        decision={"unsure": UNSURE},
        limits=LIMITS,
        metrics=(*evaluation.metrics, *fresh_metrics(on_fresh)),
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=tuple(
            Baseline(name=name, metric="accuracy", value=one.accuracy(numbers(data.test, labels)))
            for name, one in compared.items()
        ),
        tables=(by_task(data.test, {f"{settings.hops} hops": decisions, **compared}, labels, epochs),),
        data=(babi.SOURCE.entry_of(data),),
        device=device_name(fabric),
        parameters=sum(p.numel() for p in net.parameters()),
        assets={TOKENIZER: tokenizer.to_str().encode()},
    )


def labels_of(data: Stories) -> tuple[str, ...]:
    """Every answer of the training questions, sorted, and the stand-ins."""
    return (*sorted({question.answer for question in data.train}), *STAND_INS)


def vocabulary_of(questions: Sequence[Question]) -> Tokenizer:
    """A tokenizer of the words of stories and questions, in lower case and without punctuation."""
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\p{L}\p{M}\p{N}]+"), "removed", invert=True)
    texts = {text for question in questions for text in (*question.sentences, question.text)}
    words = sorted({word for text in texts for word in spelt(tokenizer, text)})
    pieces = (*SPECIAL[:FIRST_STAND_IN], *STAND_INS, *words)
    tokenizer.model = models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=UNKNOWN)
    return tokenizer


def spelt(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text, as the vocabulary has them."""
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


@dataclass(frozen=True)
class Reader:
    """Makes numbers of questions.

    Args:
        labels: the answers, the last of which are the stand-ins.
    """

    tokenizer: Tokenizer
    labels: Sequence[str]

    @property
    def size(self) -> int:
        """Words of the vocabulary."""
        return self.tokenizer.get_vocab_size()

    def words(self, text: str) -> list[Word]:
        encoding = self.tokenizer.encode(text)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        return [Word(text[start:end], number) for number, (start, end) in places]

    def story(self, question: Question) -> Story:
        """One question as a service reads it."""
        return story([self.words(s) for s in question.sentences], self.words(question.text), SENTENCES, WORDS)

    def rows(self, questions: Sequence[Question]) -> Rows:
        """Many questions, all words of which the vocabulary has."""
        texts: dict[str, int] = {"": 0}
        stories = np.zeros((len(questions), SENTENCES), np.int64)
        for row, question in zip(stories, questions, strict=True):
            latest = question.sentences[: -SENTENCES - 1 : -1]
            row[: len(latest)] = [texts.setdefault(text, len(texts)) for text in latest]
        asked = np.array([texts.setdefault(question.text, len(texts)) for question in questions])
        words = np.full((len(texts), WORDS), PAD)
        for row, encoding in zip(words, self.tokenizer.encode_batch(list(texts)), strict=True):
            row[: len(encoding.ids)] = encoding.ids
        # No sentence of the data fills a row; what is padded costs time.
        return Rows(words[:, : (words != PAD).any(axis=0).sum()], stories, asked, numbers(questions, self.labels))


def numbers(questions: Sequence[Question], labels: Sequence[str]) -> NDArray[np.int64]:
    """The labels of the answers; -1 = it is none of them."""
    places = {label: i for i, label in enumerate(labels)}
    return np.array([places.get(question.answer, -1) for question in questions])


def simpler(
    run: Run, fabric: Fabric, settings: Settings, data: Stories, reader: Reader
) -> Iterator[tuple[str, nn.Module]]:
    """What the network is compared with, trained on the same questions for fewer epochs."""
    one_hop, plain = replace(settings, hops=1), replace(settings, gated=False)
    yield "1 hop", learn(run, fabric, one_hop, data, reader, MemoryReader, settings.simple_epochs, "1 hop")
    yield (
        "without gates",
        learn(run, fabric, plain, data, reader, MemoryReader, settings.simple_epochs, "without gates"),
    )
    yield "LSTM", learn(run, fabric, settings, data, reader, LstmReader, settings.simple_epochs, "LSTM")


def learn(
    run: Run,
    fabric: Fabric,
    settings: Settings,
    data: Stories,
    reader: Reader,
    kind: Callable[[int, int, Settings], NetT],
    epochs: int,
    label: str,
) -> NetT:
    """Learn all tasks together; the last epoch's network is the one that is kept."""
    seed_everything(run.seed, verbose=False)
    net = kind(reader.size, len(reader.labels), settings)
    model, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), settings.rate))
    rows, held_out = reader.rows(data.train), reader.rows(data.validation)
    renaming = Renaming.of(reader)

    def batches(epoch: int) -> list[Batch]:
        net.linear = epoch < settings.linear * epochs
        return batches_of(rows, renaming, settings, np.random.default_rng([run.seed, epoch]))

    def watch() -> Mapping[str, float]:
        net.eval()
        net.linear = False
        right = decided(net, held_out).classes == held_out.answers
        tasks = np.array([question.task for question in data.validation])
        return {"accuracy": float(right.mean())} | {f"task{t}": float(right[tasks == t].mean()) for t in TASKS}

    run.fit(
        fabric,
        model,
        optimizer,
        batches,
        lambda batch: F.cross_entropy(model(*batch[:3])[0], batch[3]),
        epochs=epochs,
        settings=(label, kind.__name__, settings),
        rate=lambda progress: triangle(progress, 0.05),
        largest_gradient=1.0,
        watch=watch,
        label=label,
    )
    return net.cpu().eval()


@dataclass(frozen=True)
class Renaming:
    """Which words may have stand-ins.

    Args:
        named: of each id, whether its word says who, where or what, [V].
        label_words: of each label, which words it has, [A, V].
        first: the label of the first stand-in.
    """

    named: NDArray[np.bool_]
    label_words: NDArray[np.bool_]
    first: int

    @classmethod
    def of(cls, reader: Reader) -> Renaming:
        ids = reader.tokenizer.token_to_id
        named = np.isin(np.arange(reader.size), [ids(word) or PAD for word in (*PEOPLE, *PLACES, *THINGS)])
        words = np.zeros((len(reader.labels), reader.size), np.bool_)
        for row, label in zip(words, reader.labels, strict=True):
            row[[number for word in label.split(",") if (number := ids(word)) is not None]] = True
        return cls(named, words, len(reader.labels) - len(STAND_INS))

    def apply(
        self, words: NDArray[np.int64], answers: NDArray[np.int64], blurred: float, random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids in place of the vocabulary's [N, V] in stories of these words [N, S, W], and the answers [N] then.

        Some names in a story have stand-ins, and other words too, each by the chance `blurred`; none has if one is in a
        list that is the answer, which could not be said.
        """
        shape, rows = (len(words), len(self.named)), np.arange(len(words))[:, None]
        there = np.zeros(shape, np.bool_)
        there[rows, words.reshape(len(words), -1)] = True
        there[:, :FIRST_WORD] = False
        there &= random.random(shape) < np.where(self.named, random.random((len(words), 1)), blurred)
        ranks = np.where(there, random.random(shape), 1).argsort(axis=1).argsort(axis=1)
        there &= ranks < len(STAND_INS)
        own = self.label_words[answers]
        there[(own & there).any(axis=1) & (own.sum(axis=1) > 1)] = False
        stand_ins = random.permuted(np.tile(np.arange(len(STAND_INS)), (len(words), 1)), axis=1)
        chosen = stand_ins[rows, np.minimum(ranks, len(STAND_INS) - 1)]
        renamed = own & there
        answers = np.where(renamed.any(axis=1), self.first + (chosen * renamed).sum(axis=1), answers)
        return np.where(there, FIRST_STAND_IN + chosen, np.arange(len(self.named))), answers


def batches_of(rows: Rows, renaming: Renaming, settings: Settings, random: np.random.Generator) -> list[Batch]:
    """All questions once, those with stories of about the same length together."""
    lengths = rows.sizes + random.uniform(0, 3, len(rows))
    parts = np.array_split(lengths.argsort(), max(1, len(rows) // settings.batch_size))
    return [batch_of(rows, parts[i], renaming, settings, random) for i in random.permutation(len(parts))]


def batch_of(
    rows: Rows, chosen: NDArray[np.int64], renaming: Renaming, settings: Settings, random: np.random.Generator
) -> Batch:
    """Some rows, with gaps in their memories and stand-ins for some words."""
    stories = with_gaps(rows.stories[chosen, : rows.sizes[chosen].max()], settings.gaps, random)
    words, asked, answers = rows.words[stories], rows.words[rows.questions[chosen]], rows.answers[chosen]
    some = np.flatnonzero(random.random(len(chosen)) < settings.renamed)
    ids, answers[some] = renaming.apply(words[some], answers[some], settings.blurred, random)
    words[some] = ids[np.arange(len(some))[:, None, None], words[some]]
    asked[some] = np.take_along_axis(ids, asked[some], axis=1)
    sentences, places = distinct(words)
    return torch.from_numpy(sentences), torch.from_numpy(places), torch.from_numpy(asked), torch.from_numpy(answers)


def with_gaps(stories: NDArray[np.int64], share: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Stories [N, S], last sentence first, with empty places before some sentences, as far as the memory goes."""
    ages = np.arange(stories.shape[1]) + (random.random(stories.shape) < share).cumsum(axis=1)
    spread = np.zeros((len(stories), SENTENCES), stories.dtype)
    remembered = ages < SENTENCES
    spread[remembered.nonzero()[0], ages[remembered]] = stories[remembered]
    return spread[:, : int(np.flatnonzero(spread.sum(axis=0)).max()) + 1]


def distinct(words: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sentences [N, S, W] as those that differ [U, W], the first of them empty, and their numbers [N, S]: a sentence of
    many stories has its vector computed once."""
    width = words.shape[-1]
    flat = np.concatenate([np.zeros((1, width), words.dtype), words.reshape(-1, width)])
    keys = np.ascontiguousarray(flat.astype(np.uint16)).view(f"V{2 * width}").ravel()
    _, first, numbers = np.unique(keys, return_index=True, return_inverse=True)  # zeros are the least
    return flat[first], numbers[1:].reshape(words.shape[:2])


@torch.no_grad()
def logits_of(net: nn.Module, rows: Rows) -> NDArray[np.float32]:
    """What a network says of rows, [N, A]."""
    device = next(net.parameters()).device
    words = torch.from_numpy(rows.words).to(device)
    order = rows.sizes.argsort(kind="stable")
    parts = []
    for start in range(0, len(order), ROWS_AT_ONCE):
        part = order[start : start + ROWS_AT_ONCE]
        stories = torch.from_numpy(rows.stories[part, : rows.sizes[part].max()]).to(device)
        parts.append(net(words, stories, words[torch.from_numpy(rows.questions[part])])[0].cpu().numpy())
    logits = np.empty((len(order), parts[0].shape[1]), np.float32)
    logits[order] = np.concatenate(parts)
    logits[:, -len(STAND_INS) :] = -np.inf  # there is no unknown word that they could mean
    return logits


def decided(net: nn.Module, rows: Rows) -> Decisions:
    """Which answers a network gives."""
    return Decisions.of(logits_of(net, rows))


@torch.no_grad()
def calibrate(net: MemoryReader, rows: Rows) -> None:
    """Scale what the network says so that probabilities mean what they say, by held-out rows."""
    warmth = temperature(torch.from_numpy(logits_of(net, rows)), torch.from_numpy(rows.answers))
    for parameter in net.answers[-1].parameters():
        parameter.div_(warmth)


@torch.no_grad()
def answer_of(net: Served, labels: Sequence[str], read: Story) -> str:
    """What the network answers to one question."""
    logits, _ = net(torch.from_numpy(read.sentences)[None], torch.from_numpy(read.question)[None])
    answers = read.answers(labels)
    return answers[max(answers, key=lambda i: float(logits[0, i]))]


def evaluate(client: Client, track: Track) -> Evaluation:
    """The answers to the test questions, as served."""
    data = babi.load()
    labels = labels_of(data)
    said = served(client, track, data.test)
    known = {label: i for i, label in enumerate(labels)}
    decisions = Decisions(np.array([known[answer] for answer, _ in said]), np.array([p for _, p in said]))
    return measured(data, decisions, labels)


def evaluate_fresh(client: Client, track: Track) -> Evaluation:
    """The answers to questions that were written for this project."""
    return Evaluation(fresh_metrics([answer for answer, _ in served(client, track, fresh.stories())]))


def served(client: Client, track: Track, questions: Sequence[Question]) -> list[tuple[str, float]]:
    """What a server answers, and how probable it says that is."""
    said = []
    for question in track(questions, len(questions)):
        (best,) = client.answer_story(question.sentences, question.text, "memory_reader").answers
        said.append((best.text, best.probability))
    return said


def measured(data: Stories, decisions: Decisions, labels: Sequence[str]) -> Evaluation:
    """The share of right answers, of all test questions, of those that were not learned from, and of each task."""
    right = decisions.classes == numbers(data.test, labels)
    learned = {(question.sentences, question.text) for question in data.train}
    new = np.array([(question.sentences, question.text) not in learned for question in data.test])
    tasks = np.array([question.task for question in data.test])
    metrics = [
        share_of_stories("accuracy", data.test, right, np.full(len(right), True), target=TARGET),
        share_of_stories("accuracy_new", data.test, right, new),
    ]
    for task in sorted(set(tasks.tolist())):
        name = f"accuracy_{TASKS[task].replace('-', '_')}"
        metrics.append(share_of_stories(name, data.test, right, tasks == task, target=TARGET))
    answers = [label for label in labels if label not in STAND_INS]
    return measures.classified(decisions, numbers(data.test, labels), answers, tuple(metrics))


def share_of_stories(
    name: str, questions: Sequence[Question], right: NDArray[np.bool_], chosen: NDArray[np.bool_], **target: Any
) -> Metric:
    """The share of right answers to some questions, of which those on one story depend on each other."""
    stories = len({question.story for question, there in zip(questions, chosen, strict=True) if there})
    return measures.share(name, float(right[chosen].mean()), int(chosen.sum()), independent=stories, **target)


def fresh_metrics(answers: Sequence[str]) -> tuple[Metric, ...]:
    """How many of the questions that were written for this project have these answers."""
    right = [said.casefold() == question.answer for said, question in zip(answers, fresh.stories(), strict=True)]
    return (measures.share("accuracy_fresh", float(np.mean(right)), len(right)),)


def by_task(
    questions: Sequence[Question], compared: Mapping[str, Decisions], labels: Sequence[str], epochs: tuple[int, int]
) -> Table:
    """What share of each task's questions each network answers, after so many epochs of the first and of the others."""
    answers, tasks = numbers(questions, labels), np.array([question.task for question in questions])
    rows = []
    for task in sorted(set(tasks.tolist())):
        shares = [float((one.classes == answers)[tasks == task].mean()) for one in compared.values()]
        example = next(question.text for question in questions if question.task == task)
        rows.append((f"{task} {TASKS[task]}", example, *(round(share, 3) for share in shares)))
    title = f"Accuracy by task; what is compared learned for {epochs[1]} epochs, the network itself for {epochs[0]}"
    return Table(title=title, columns=("task", "such as", *compared), rows=tuple(rows))
