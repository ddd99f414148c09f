"""RNN, LSTM: what a request wants and the words that say of what, as in the lecture's "arrive Taipei on November 2nd".

Slot filling and intent detection by one network (Liu and Lane, "Attention-Based Recurrent Neural Network Models for
Joint Intent Detection and Slot Filling", 2016): two layers of LSTM read the pieces of words from both ends (Graves and
Schmidhuber, "Framewise Phoneme Classification with Bidirectional LSTM", 2005); the state at each word's first piece
gives its tag, and the largest of all states give the intent. While it learns, the names in a request change for others
of the same slot, so that it goes by the words around them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, models, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, Limits, Metric, TextPreprocessing
from artifacts.tagging import OUTSIDE, TaggedSpan, best_tags, spans_of
from artifacts.windows import CLS, PAD, SEP, UNK, padded
from lectern.client import Client
from training import measures
from training.data import fresh, snips
from training.data.snips import INTENTS, Request, Requests
from training.data.tags import IGNORED, Slot, tags_for, tags_of
from training.export.onnx import round_to_half
from training.measures import Decisions, Evaluation
from training.methods.calibration import temperature
from training.methods.text_encoder import SPECIAL, TOKENIZER, UNKNOWN, tokenizer_of
from training.optimise import decayed, triangle
from training.run import Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
SHIPPED = True
MEMORY = 2
TARGET_F1, TARGET_INTENT = 0.90, 0.97
MAX_TOKENS = 128
UNSURE = 0.75
TEXTS_PER_REQUEST = ROWS_AT_ONCE = 64
# Of config.pbtxt; a longer row costs as much as several of its pieces, so rows of like lengths run together.
PADDING = {"padded_axis": 1, "pad_value": PAD, "pad_multiple": 8, "batch_budget": 1024}
LIMITS = Limits(
    intended="Short English requests to a voice assistant: weather, restaurants, music, playlists, ratings of books, "
    "works and films.",
    failures=(
        "It knows seven intents and always answers with one of them.",
        "Of the slots of 39 new requests it finds fewer exactly (F1 0.796) than of those of the test split (0.941); "
        "half of its errors are names of works taken for a slot of another kind, such as a track for an artist, and "
        "times without their preposition, as the data has them.",
        'It reads no context beyond the sentence: "this album" stays what it is.',
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        pieces: in the vocabulary, at most.
        width, hidden: of a piece's vector, and of each direction's state.
        swapped: share of the slots whose words change for those of another request.
        unknown: share of the pieces that are hidden while it learns.
    """

    pieces: int = 4000
    width: int = 128
    hidden: int = 160
    dropout: float = 0.4
    swapped: float = 0.3
    unknown: float = 0.05
    smoothing: float = 0.05
    epochs: int = 30
    batch_size: int = 64
    rate: float = 4e-3
    weight_decay: float = 0.02


FULL = Settings()
FAST = Settings(pieces=400, width=32, hidden=32, dropout=0.0, epochs=12, batch_size=16, rate=1e-2)


class SlotTagger(nn.Module):
    """Ids of pieces int64 [N, T], 0 = padding -> logits of intents float32 [N, I], of tags [N, T, S]."""

    def __init__(self, pieces: int, intents: int, tags: int, settings: Settings) -> None:
        super().__init__()
        self.vectors = nn.Embedding(pieces, settings.width, padding_idx=PAD)
        widths = (settings.width, 2 * settings.hidden)
        self.forwards = nn.ModuleList(nn.LSTM(width, settings.hidden, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(nn.LSTM(width, settings.hidden, batch_first=True) for width in widths)
        self.dropout = nn.Dropout(settings.dropout)
        self.intents = nn.Linear(2 * settings.hidden, intents)
        self.tags = nn.Linear(4 * settings.hidden, tags)  # the state of a word beside that of all

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        states = self.dropout(self.vectors(ids))
        mirrored = mirror(ids)
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            onward = ahead(states)[0]
            returning = turned(back(turned(states, mirrored))[0], mirrored)
            states = self.dropout(torch.cat([onward, returning], dim=2))
        largest = states.masked_fill((ids == PAD)[..., None], -torch.inf).amax(dim=1)
        beside = largest[:, None].expand(-1, ids.shape[1], -1)
        return self.intents(largest), self.tags(torch.cat([states, beside], dim=2))


def mirror(ids: Tensor) -> Tensor:
    """For each place of rows int64 [N, T] the place that takes its turn when it is read from its end; padding stays
    where it is, so that what a row is padded by changes nothing."""
    lengths = (ids != PAD).sum(dim=1, keepdim=True)
    places = torch.arange(ids.shape[1], device=ids.device)[None]
    return torch.where(places < lengths, lengths - 1 - places, places)


def turned(states: Tensor, places: Tensor) -> Tensor:
    """States [N, T, C] in the order of places int64 [N, T]."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[2]))


def train(run: Run) -> Trained:
    """Learn from the training requests, choose nothing, and measure on the test requests."""
    settings = FAST if run.fast else FULL
    data = snips.load_sliver(run.sliver.with_suffix(".json")) if run.fast else snips.load()
    tags = (OUTSIDE, *tags_for(data.slots))
    tokenizer = tokenizer_of(learned_pieces([request.text for request in data.train], settings.pieces))
    fabric = run.fabric()
    net = learn(run, fabric, settings, data, tokenizer, tags)
    calibrate(net, rows_of(data.validation, tokenizer, tags))
    round_to_half(net)
    evaluation = measured(data.test, tagged(net, data.test, tokenizer, tags))
    on_fresh = fresh_metrics(tagged(net, fresh.requests(), tokenizer, tags))
    ids = torch.from_numpy(padded([row.ids for row in rows_of(data.test[:8], tokenizer, tags)]))
    return Trained(
        title="Slots and intent of a request",
        lecture="RNN",
        capability="tag",
        task="slot filling",
        description="What a request to a voice assistant wants, and the words that say of what: a bidirectional LSTM.",
        graphs={
            "forward": Graph(net, {"ids": ids}, ("logits", "tags"), {"ids": (1,)}, max_batch_size=64, padding=PADDING)
        },
        preprocessing=TextPreprocessing(tokenizer=TOKENIZER, max_tokens=MAX_TOKENS),
        labels=INTENTS,
        tags=tags,
        decision={"unsure": UNSURE},
        limits=LIMITS,
        metrics=(*evaluation.metrics, *on_fresh),
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=word_baseline(data),
        data=(snips.SOURCE.entry_of(data),),
        device=device_name(fabric),
        parameters=sum(p.numel() for p in net.parameters()),
        assets={TOKENIZER: tokenizer.to_str().encode()},
    )


def learned_pieces(texts: Sequence[str], count: int) -> list[str]:
    """So many pieces at most, of which the words of texts are made: WordPiece (Schuster and Nakajima, 2012)."""
    tokenizer = tokenizer_of(SPECIAL)
    normal = (tokenizer.normalizer.normalize_str(text) for text in texts)
    words = [word for text in normal for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    alphabet = sorted(set("".join(words)))  # all of it: the trainer would choose at random among equally common ones
    empty = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    trainer = trainers.WordPieceTrainer(
        vocab_size=count, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    empty.train_from_iterator(words, trainer)
    vocabulary = empty.get_vocab()
    return sorted(vocabulary, key=lambda piece: vocabulary[piece])


@dataclass(frozen=True)
class Row:
    """One request as the network reads it: `[CLS] pieces [SEP]`, the tag of each piece, and the intent.

    Only the first piece of a word has a tag.
    """

    ids: Sequence[int]
    tags: Sequence[int]
    intent: int


Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Ids int64 [N, T], tags int64 [N, T], intents int64 [N]."""


def learn(
    run: Run, fabric: Fabric, settings: Settings, data: Requests, tokenizer: Tokenizer, tags: Sequence[str]
) -> SlotTagger:
    """Learn intents and tags together; the last epoch's network is the one that is kept."""
    net = SlotTagger(tokenizer.get_vocab_size(), len(INTENTS), len(tags), settings)
    model, optimizer = fabric.setup(net, torch.optim.AdamW(decayed(net, settings.weight_decay), settings.rate))
    entities = entities_of(data.train)

    def batches(epoch: int) -> list[Batch]:
        random = np.random.default_rng([run.seed, epoch])
        requests = [swapped(request, entities, settings.swapped, random) for request in data.train]
        rows = rows_of(requests, tokenizer, tags)
        order = random.permutation(len(rows))
        parts = np.array_split(order, max(1, len(rows) // settings.batch_size))
        return [hidden(batch_of([rows[i] for i in part]), settings.unknown, random) for part in parts]

    def loss(batch: Batch) -> Tensor:
        ids, right_tags, right_intents = batch
        intents, scores = model(ids)
        of_intents = F.cross_entropy(intents, right_intents, label_smoothing=settings.smoothing)
        of_tags = F.cross_entropy(
            scores.flatten(0, 1), right_tags.flatten(), ignore_index=IGNORED, label_smoothing=settings.smoothing
        )
        return of_intents + of_tags

    def watch() -> Mapping[str, float]:
        net.eval()
        found = tagged(net, data.validation, tokenizer, tags)
        counts = matches(data.validation, [one.slots for one in found])
        right = np.mean([one.intent == request.intent for one, request in zip(found, data.validation, strict=True)])
        return {"slot_f1": f1(*counts.T), "intent": float(right)}

    run.fit(
        fabric,
        model,
        optimizer,
        batches,
        loss,
        epochs=settings.epochs,
        settings=settings,
        rate=lambda progress: triangle(progress, 0.1),
        largest_gradient=1.0,
        watch=watch,
    )
    return net.cpu().eval()


def entities_of(requests: Sequence[Request]) -> dict[str, list[str]]:
    """What each slot was filled with, once for each request."""
    entities: dict[str, list[str]] = defaultdict(list)
    for request in requests:
        for slot in request.slots:
            entities[slot.label].append(request.text[slot.start : slot.end])
    return entities


def swapped(
    request: Request, entities: Mapping[str, Sequence[str]], share: float, random: np.random.Generator
) -> Request:
    """The request with the words of some slots taken from others."""
    text, end, slots = "", 0, list[Slot]()
    for slot in request.slots:
        words = request.text[slot.start : slot.end]
        if random.random() < share:
            words = entities[slot.label][int(random.integers(len(entities[slot.label])))]
        text += request.text[end : slot.start]
        slots.append(Slot(slot.label, len(text), len(text) + len(words)))
        text, end = text + words, slot.end
    return replace(request, text=text + request.text[end:], slots=tuple(slots))


def rows_of(requests: Sequence[Request], tokenizer: Tokenizer, tags: Sequence[str]) -> list[Row]:
    """Requests as rows; a request with more pieces than the network reads loses its end."""
    numbers = {tag: i for i, tag in enumerate(tags)}
    encodings = tokenizer.encode_batch([request.text for request in requests], add_special_tokens=False)
    rows = []
    for request, encoding in zip(requests, encodings, strict=True):
        pieces = [numbers.get(tag, IGNORED) for tag in tags_of(request.slots, encoding)][: MAX_TOKENS - 2]
        ids = [CLS, *encoding.ids[: MAX_TOKENS - 2], SEP]
        rows.append(Row(ids, [IGNORED, *pieces, IGNORED], INTENTS.index(request.intent)))
    return rows


def batch_of(rows: Sequence[Row]) -> Batch:
    """Rows, padded to the longest: the windows of a service may have more, which changes nothing."""
    ids = torch.from_numpy(padded([row.ids for row in rows]))[:, : max(len(row.ids) for row in rows)]
    tags = torch.full(ids.shape, IGNORED)
    for row, values in zip(tags, rows, strict=True):
        row[: len(values.tags)] = torch.tensor(values.tags)
    return ids, tags, torch.tensor([row.intent for row in rows])


def hidden(batch: Batch, share: float, random: np.random.Generator) -> Batch:
    """The batch with some pieces unknown."""
    ids, tags, intents = batch
    chosen = torch.from_numpy(random.random(ids.shape) < share) & (ids > SEP)
    return ids.masked_fill(chosen, UNK), tags, intents


@torch.no_grad()
def calibrate(net: SlotTagger, rows: Sequence[Row]) -> None:
    """Scale what the network says of intents and of tags so that probabilities mean what they say, by held-out rows."""
    ids, tags, intents = batch_of(rows)
    said = [net(part) for part in torch.split(ids, 256)]
    of_intents, of_tags = (torch.cat(parts) for parts in zip(*said, strict=True))
    chosen = tags != IGNORED
    for layer, logits, right in ((net.intents, of_intents, intents), (net.tags, of_tags[chosen], tags[chosen])):
        warmth = temperature(logits, right)
        layer.weight.div_(warmth)
        layer.bias.div_(warmth)


@dataclass(frozen=True)
class Tagged:
    """What was said of a request: its intent, with its logits or their like, and its slots."""

    intent: str
    logits: NDArray[np.floating]
    slots: tuple[Slot, ...]


@torch.no_grad()
def tagged(net: SlotTagger, requests: Sequence[Request], tokenizer: Tokenizer, tags: Sequence[str]) -> list[Tagged]:
    """What the network says of requests, put together as the service does."""
    encodings = tokenizer.encode_batch([request.text for request in requests], add_special_tokens=False)
    found = []
    for start in range(0, len(encodings), ROWS_AT_ONCE):
        part = encodings[start : start + ROWS_AT_ONCE]
        ids = torch.from_numpy(padded([[CLS, *one.ids[: MAX_TOKENS - 2], SEP] for one in part]))
        intents, scores = (output.cpu().numpy() for output in net(ids.to(net.intents.weight.device)))
        for encoding, logits, own in zip(part, intents, scores, strict=True):
            slots = slots_in(encoding, own[1 : MAX_TOKENS - 1], tags)
            found.append(Tagged(INTENTS[int(logits.argmax())], logits, slots))
    return found


def slots_in(encoding: Encoding, scores: NDArray[np.float32], tags: Sequence[str]) -> tuple[Slot, ...]:
    """The slots of a request by the scores of its pieces' tags [T, S]; what lies beyond T has none."""
    firsts = [i for i, word in enumerate(encoding.word_ids) if i == 0 or word != encoding.word_ids[i - 1]]
    read = [i for i in firsts if i < len(scores)]
    chosen = best_tags(torch.from_numpy(scores[read]).log_softmax(dim=1).numpy(), tags)
    bounds = [*firsts, len(encoding.ids)]
    return tuple(
        Slot(span.label, encoding.offsets[bounds[span.start]][0], encoding.offsets[bounds[span.end] - 1][1])
        for span in spans_of(chosen.tolist(), tags)
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Slots and intents of the test requests, as served."""
    test = snips.load().test
    return measured(test, served(client, track, test))


def evaluate_fresh(client: Client, track: Track) -> Evaluation:
    """Slots and intents of requests that were written for this project."""
    return Evaluation(fresh_metrics(served(client, track, fresh.requests())))


def served(client: Client, track: Track, requests: Sequence[Request]) -> list[Tagged]:
    """What a server says of requests."""
    starts = range(0, len(requests), TEXTS_PER_REQUEST)
    found = []
    for start in track(starts, len(starts)):
        part = [request.text for request in requests[start : start + TEXTS_PER_REQUEST]]
        for result in client.tag_text(part, "slot_tagger").results:
            probabilities = {scored.label: scored.probability for scored in result.classes}
            slots = tuple(Slot(span.label, span.start, span.end) for span in result.spans)
            logarithms = np.log(np.maximum([probabilities[intent] for intent in INTENTS], 1e-12))
            found.append(Tagged(result.classes[0].label, logarithms, slots))
    return found


def measured(requests: Sequence[Request], found: Sequence[Tagged]) -> Evaluation:
    """F1 of whole slots, accuracy of intents, and how many requests were understood as a whole."""
    counts = matches(requests, [one.slots for one in found])
    labels = np.array([INTENTS.index(request.intent) for request in requests])
    decisions = Decisions.of(np.stack([one.logits for one in found]))
    whole = [
        one.intent == request.intent and set(one.slots) == set(request.slots)
        for one, request in zip(found, requests, strict=True)
    ]
    metrics = (
        _slot_f1("slot_f1", counts, target=TARGET_F1),
        measures.share("accuracy", decisions.accuracy(labels), len(labels), target=TARGET_INTENT),
        measures.share("exact_match", float(np.mean(whole)), len(whole)),
    )
    return measures.classified(decisions, labels, INTENTS, metrics)


def fresh_metrics(found: Sequence[Tagged]) -> tuple[Metric, ...]:
    """Slots and intents of requests that were written for this project."""
    requests = fresh.requests()
    right = [one.intent == request.intent for one, request in zip(found, requests, strict=True)]
    return (
        _slot_f1("slot_f1_fresh", matches(requests, [one.slots for one in found])),
        measures.share("accuracy_fresh", float(np.mean(right)), len(right)),
    )


def matches(requests: Sequence[Request], found: Sequence[tuple[Slot, ...]]) -> NDArray[np.int64]:
    """Of each request how many of its slots were found, how many were said to be there, and how many there are."""
    return np.array(
        [
            (len(set(slots) & set(request.slots)), len(slots), len(request.slots))
            for request, slots in zip(requests, found, strict=True)
        ]
    )


def f1(right: NDArray[Any], said: NDArray[Any], there: NDArray[Any]) -> float:
    """The harmonic mean of precision and recall of whole slots, over all requests."""
    return 2 * float(right.sum()) / max(1.0, float(said.sum() + there.sum()))


def _slot_f1(name: str, counts: NDArray[np.int64], **target: float) -> Metric:
    interval = measures.bootstrap(f1, *counts.T)
    return Metric(name=name, value=f1(*counts.T), split="test", n=len(counts), interval=interval, **target)


def word_baseline(data: Requests) -> tuple[Baseline, ...]:
    """Each word alone: the tag that it has most often, and the intent that its words have most often."""
    splitter = tokenizer_of(SPECIAL).pre_tokenizer
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    intents: dict[str, Counter[str]] = defaultdict(Counter)
    for request in data.train:
        for word, (start, end) in splitter.pre_tokenize_str(request.text):
            slot = next((slot for slot in request.slots if slot.start < end and start < slot.end), None)
            seen[word.lower()][OUTSIDE if slot is None else slot.label] += 1
            intents[word.lower()][request.intent] += 1
    found, right = [], 0
    for request in data.test:
        words = splitter.pre_tokenize_str(request.text)
        slots: list[TaggedSpan] = []
        votes: Counter[str] = Counter()
        for word, (start, end) in words:
            counted = intents[word.lower()]
            votes.update({intent: n / counted.total() for intent, n in counted.items()})
            label = seen[word.lower()].most_common(1)[0][0] if seen[word.lower()] else OUTSIDE
            if label == OUTSIDE:
                continue
            if slots and slots[-1].label == label and not request.text[slots[-1].end : start].strip():
                start = slots.pop().start
            slots.append(TaggedSpan(label, start, end))
        found.append(tuple(Slot(span.label, span.start, span.end) for span in slots))
        right += bool(votes) and votes.most_common(1)[0][0] == request.intent
    return (
        Baseline(name="each word alone", metric="slot_f1", value=f1(*matches(data.test, found).T)),
        Baseline(name="each word alone", metric="accuracy", value=right / len(data.test)),
    )
