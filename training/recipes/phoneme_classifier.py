"""HW2: which phone sounds in each 10 ms of speech; an MLP, a BiLSTM and a Conformer compared.

The course's frame classifiers: a multilayer perceptron on the frames around the one in question, a bidirectional LSTM
(Graves and Schmidhuber, "Framewise Phoneme Classification with Bidirectional LSTM", 2005) and a Conformer (Gulati et
al., 2020) whose attention reaches 240 ms, so that its answer for a frame depends on less than 1.3 s around it.

Shipped is the best on the validation split of those that depend on so little, with the log-mel energies in its graph:
long audio is cut into windows without a trace, live audio answered after a second. A BiLSTM needs all of a recording.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import AudioPreprocessing, Baseline, Card, Limits, Metric, Split, Table
from lectern.client import Client
from training import measures
from training.data import festvox_ru
from training.data.festvox_ru import PAUSE, PHONES, FestvoxRu, Sentence
from training.export.explanation import Explainable, explainable
from training.export.onnx import round_to_bytes
from training.measures import Decisions, Evaluation
from training.methods.calibration import temperature
from training.methods.speech import (
    HOP,
    MELS,
    RATE,
    STEP,
    ConformerBlock,
    LogMel,
    Normalise,
    Steps,
    log_mels,
    masked,
    valid_frames,
    whole_steps,
)
from training.optimise import one_cycle
from training.run import Run, device_name
from training.served import Track
from training.trained import Figure, Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 2
SHIPPED = True
TARGET = 0.85
WINDOW_SECONDS = 8
IGNORED = -1  # label of a frame behind the end of a sentence
EVALUATION_SECONDS = 600
Features = list[tuple[Tensor, Tensor]]  # of each sentence: energies [T, 48], phones [T]
LIMITS = Limits(
    intended="The phones of Russian as one speaker reads it aloud, close to one microphone.",
    failures=(
        "All of its data, the test split included, is of one speaker and one microphone; on other voices the phone "
        "error rate of version 1 is about 1.0.",
        "Even for its own speaker, noise at 20 dB changes 96 % of the phones that version 1 finds, a tenth of the "
        "loudness 74 %, a sample rate of 8 kHz 55 %, and a pitch 10 % lower 53 %.",
    ),
)


@dataclass(frozen=True)
class NetworkSettings:
    """Hyper-parameters of one network and its training.

    Args:
        reach: frames that the MLP, or steps of 20 ms that the Conformer's attention, sees on each side.
        crop: frames of one training example.
    """

    network: str
    width: int
    layers: int
    epochs: int
    peak_learning_rate: float
    reach: int = 12
    kernel: int = 7
    heads: int = 4
    dropout: float = 0.1
    batch_size: int = 16
    crop: int = 300
    weight_decay: float = 0.01
    label_smoothing: float = 0.1


FULL = (
    NetworkSettings("MLP", width=512, layers=2, epochs=8, peak_learning_rate=2e-3, reach=15, dropout=0.2),
    NetworkSettings("BiLSTM", width=192, layers=2, epochs=20, peak_learning_rate=3e-3, dropout=0.3),
    NetworkSettings("Conformer", width=144, layers=4, epochs=36, peak_learning_rate=2e-3),
)
FAST = (
    NetworkSettings("MLP", width=32, layers=2, epochs=1, peak_learning_rate=2e-3, reach=15, batch_size=4, crop=60),
    NetworkSettings("BiLSTM", width=16, layers=2, epochs=1, peak_learning_rate=3e-3, batch_size=4, crop=60),
    NetworkSettings("Conformer", width=32, layers=1, epochs=16, peak_learning_rate=1e-2, batch_size=4, crop=60),
)


class Mlp(nn.Module):
    """A multilayer perceptron on each frame with `reach` neighbours on each side, as a convolution."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.context = settings.reach * HOP
        width, span = settings.width, 2 * settings.reach + 1
        self.first = nn.Conv1d(MELS, width, span, padding=settings.reach)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(settings.layers - 1))
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(width, len(PHONES))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.first(features.transpose(1, 2)).transpose(1, 2)))
        for layer in self.hidden:
            x = self.dropout(F.relu(layer(x)))
        logits: Tensor = self.head(x)
        return logits


class BiLstm(nn.Module):
    """LSTMs in both directions over steps of two frames, whose head answers for both."""

    context = None  # it remembers everything

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width = settings.width
        self.steps = Steps(width)
        self.recurrent = nn.LSTM(
            width, width, settings.layers, batch_first=True, bidirectional=True, dropout=settings.dropout
        )
        self.head = nn.Linear(2 * width, 2 * len(PHONES))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        return _per_frame(self.head(self.recurrent(self.steps(features))[0]))


class Conformer(nn.Module):
    """Conformer blocks over steps of two frames, whose head answers for both."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, reach, kernel = settings.width, settings.reach, settings.kernel
        # What a step sees through the blocks, and the two frames at each side of its own, rounded up.
        self.context = STEP * (settings.layers * (reach + kernel // 2) + 2)
        self.steps = Steps(width)
        self.blocks = nn.ModuleList(
            ConformerBlock(width, settings.heads, kernel, reach, settings.dropout) for _ in range(settings.layers)
        )
        self.head = nn.Linear(width, 2 * len(PHONES))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        x = self.steps(features)
        valid = valid_frames(x, lengths, STEP)
        for block in self.blocks:
            x = block(x, valid)
        return _per_frame(self.head(x))


NETWORKS: dict[str, type[Mlp] | type[BiLstm] | type[Conformer]] = {"MLP": Mlp, "BiLSTM": BiLstm, "Conformer": Conformer}


class PhonemeClassifier(nn.Module):
    """PCM int16 [N, T] at 16 kHz with lengths int64 [N, 1] -> logits float32 [N, T / 160, 51], one for 10 ms.

    T is rounded up to a multiple of 320; what lies behind a clip's length changes nothing before it.
    """

    network: Mlp | BiLstm | Conformer

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.front_end = LogMel()
        self.normalise = Normalise()
        self.network = NETWORKS[settings.network](settings)

    def logits(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits of normalised energies [N, T, 48]."""
        logits: Tensor = self.network(features * valid_frames(features, lengths), lengths)
        return logits

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        return self.logits(self.normalise(self.front_end(whole_steps(samples))), lengths)


class Energies(nn.Module):
    """PCM int16 [N, T] at 16 kHz -> log-mel energies float32 [N, T / 160, 48]; T is rounded up to a multiple of 320."""

    def __init__(self, front_end: LogMel) -> None:
        super().__init__()
        self.front_end = front_end

    def forward(self, samples: Tensor) -> Tensor:
        energies: Tensor = self.front_end(whole_steps(samples))
        return energies


class Heard(nn.Module):
    """Log-mel energies float32 [N, T, 48], and how much each frame counts [N, T, 1] -> logits [N, 51], their weighted
    mean."""

    def __init__(self, net: PhonemeClassifier) -> None:
        super().__init__()
        self.net = net

    def forward(self, energies: Tensor, frames: Tensor) -> Tensor:
        count = energies.shape[1]
        # Networks that halve the rate of frames leave out an odd one; one that lies behind the end changes nothing.
        features = F.pad(self.net.normalise(energies), (0, 0, 0, 1))
        logits = self.net.logits(features, torch.full((1, 1), count * HOP))[:, :count]
        return (logits * frames).sum(1) / frames.sum(1)


class Fitted(NamedTuple):
    """A trained network with what the comparison says of it."""

    settings: NetworkSettings
    net: PhonemeClassifier
    validation_accuracy: float
    seconds: float
    device: str


def train(run: Run) -> Trained:
    """Train each network, round the best to 8 bits, and measure exactly that."""
    data = festvox_ru.load_sliver(run.sliver.with_suffix(".npz")) if run.fast else festvox_ru.load()
    train_set, validation, test = (features_of(s) for s in (data.train, data.validation, data.test))
    candidates = [fit(run, settings, train_set, validation) for settings in (FAST if run.fast else FULL)]
    local = [c for c in candidates if c.net.network.context is not None]
    # A fast run's accuracies mean nothing; it exercises what a full one ships.
    best = local[-1] if run.fast else max(local, key=lambda c: c.validation_accuracy)
    net = best.net
    calibrate(net, validation)
    round_to_bytes(net)
    predictions = predict(net, test)
    evaluation = measured(predictions)
    context = -(-(net.network.context or 0) // STEP) * STEP
    explained = explain(net, data)
    return Trained(
        title="Phoneme classifier",
        lecture="HW2",
        capability="classify",
        task="phoneme classification",
        description=f"A {best.settings.network} that says which of 51 Russian phones sounds in each 10 ms of speech.",
        graphs={
            "forward": Graph(net, examples(data), ("logits",), {"samples": (1,)}, max_batch_size=8),
            **explained.graphs,
        },
        explanation=explained.explanation,
        preprocessing=AudioPreprocessing(
            sample_rate=RATE, window=WINDOW_SECONDS * RATE, step=STEP, hop=HOP, context=context
        ),
        labels=PHONES,
        metrics=(
            *evaluation.metrics,
            frame_accuracy("accuracy", predict(net, validation), "validation"),
        ),
        limits=LIMITS,
        per_class=evaluation.per_class,
        calibration=measures.calibration(*decisions(logits_of(net, test), test)),
        baselines=baselines(train_set, test),
        tables=(comparison(candidates, test),),
        figures=(
            Figure(
                "A sentence of the test split: energies, phones as aligned, phones as found",
                "segments.png",
                plot_segments(data.test[0], predictions[0]),
            ),
            Figure("Test frames: which phone is taken for which", "confusion.png", plot_confusion(predictions)),
        ),
        data=(festvox_ru.SOURCE.entry_of(data),),
        device=best.device,
        parameters=parameters(net),
    )


def explain(net: PhonemeClassifier, data: FestvoxRu) -> Explainable:
    """What ExplainService needs: energies of a clip, and derivatives by them."""
    samples = examples(data)["samples"]
    with torch.no_grad():
        energies = net.front_end(samples)
    frames = torch.linspace(0, 1, energies.shape[1]).repeat(len(energies), 1)[:, :, None]
    explained = explainable(
        Heard(net),
        {"energies": energies},
        "logits",
        labelled=True,
        constants={"frames": frames},
        dynamic_axes={"energies": (1,), "frames": (1,)},
    )
    energies_of = Graph(
        Energies(net.front_end), {"samples": samples}, ("energies",), {"samples": (1,)}, max_batch_size=8
    )
    return Explainable({"energies": energies_of, **explained.graphs}, explained.explanation)


def evaluate(client: Client, track: Track) -> Evaluation:
    """Accuracy over the frames of the test sentences, each sent as raw samples."""
    test = festvox_ru.load().test
    predictions: list[Prediction] = []
    for sentence in track(test, len(test)):
        answer = client.classify_audio(
            (sentence.samples, RATE), "phoneme_classifier", include_frames=True, timeout=EVALUATION_SECONDS
        )
        frames = np.array(answer.results[0].frames)[: len(sentence.phones)]
        predictions.append(Prediction(frames, sentence.phones))
    return measured(predictions)


def unserved(card: Card, repository: Path, track: Track) -> Evaluation:
    """Accuracy on the validation sentences, and calibration on the test ones: RPCs tell no probabilities of frames."""
    data = festvox_ru.load()
    session = onnxruntime.InferenceSession(repository / card.name / str(card.version) / "model.onnx")

    def logits(sentence: Sentence) -> Tensor:
        samples = np.pad(sentence.samples, (0, -len(sentence.samples) % (2 * HOP)))[None]
        lengths = np.array([[len(sentence.phones) * HOP]])
        return torch.from_numpy(session.run(["logits"], {"samples": samples, "lengths": lengths})[0][0])

    sentences = (*data.validation, *data.test)
    outputs = [logits(sentence)[: len(sentence.phones)] for sentence in track(sentences, len(sentences))]
    validation = [Prediction(f.argmax(1).numpy(), s.phones) for f, s in zip(outputs, data.validation, strict=False)]
    test = [(f, torch.from_numpy(s.phones)) for f, s in zip(outputs[len(data.validation) :], data.test, strict=True)]
    return Evaluation(
        (frame_accuracy("accuracy", validation, "validation"),),
        calibration=measures.calibration(*decisions([f for f, _ in test], test)),
    )


def measured(predictions: Sequence[Prediction]) -> Evaluation:
    """Accuracy over all test frames, and over those that are no pause; and how well each phone is told."""
    predicted, aligned = (np.concatenate(part) for part in zip(*predictions, strict=True))
    return Evaluation(
        (
            frame_accuracy("accuracy", predictions, target=TARGET),
            frame_accuracy("accuracy_without_pauses", predictions, pauses=False),
        ),
        per_class=measures.by_class(predicted, aligned, PHONES),
    )


def decisions(logits: Sequence[Tensor], sentences: Features) -> tuple[Decisions, NDArray[np.int64]]:
    """What logits [T, 51] of each sentence decide for all frames, and what is aligned with them."""
    return Decisions.of(torch.cat(list(logits))), torch.cat([phones for _, phones in sentences]).numpy()


def frame_accuracy(
    name: str, predictions: Sequence[Prediction], split: Split = "test", *, pauses: bool = True, **target: Any
) -> Metric:
    """Accuracy over the frames; those of one sentence are alike, so whole sentences are resampled."""
    counted = [np.ones(len(p.aligned), bool) if pauses else p.aligned != PHONES.index(PAUSE) for p in predictions]
    right = np.array([(p.predicted == p.aligned)[c].sum() for p, c in zip(predictions, counted, strict=True)], float)
    frames = np.array([c.sum() for c in counted], float)
    value, n = measures.ratio(right, frames), int(frames.sum())
    return Metric(
        name=name, value=value, split=split, n=n, interval=measures.bootstrap(measures.ratio, right, frames), **target
    )


def features_of(sentences: Sequence[Sentence]) -> Features:
    """Energies and phones of each sentence."""
    energies = log_mels([sentence.samples for sentence in sentences])
    return [(e, torch.from_numpy(s.phones)) for e, s in zip(energies, sentences, strict=True)]


def examples(data: FestvoxRu) -> dict[str, Tensor]:
    """Two seconds from the beginning of a few sentences, of which some are shorter."""
    size = 2 * RATE
    clips = [sentence.samples[:size] for sentence in (*data.test, *data.validation, *data.train)[:4]]
    lengths = [len(clip) - i * RATE // 3 for i, clip in enumerate(clips)]
    samples = np.stack([np.pad(clip[:n], (0, size - n)) for clip, n in zip(clips, lengths, strict=True)])
    return {"samples": torch.from_numpy(samples), "lengths": torch.tensor(lengths)[:, None]}


def fit(run: Run, settings: NetworkSettings, train_set: Features, validation: Features) -> Fitted:
    """Train one network on the train split; on the validation split it is measured after each epoch."""
    fabric = run.fabric("bf16-mixed")
    net = PhonemeClassifier(settings)
    net.normalise.fit([energies for energies, _ in train_set])
    count = max(1, sum(len(p) for _, p in train_set) // (settings.batch_size * settings.crop))
    steps = settings.epochs * count
    optimizer, schedule = one_cycle(net, settings.peak_learning_rate, settings.weight_decay, steps, warm_up=0.15)
    model, optimizer = fabric.setup(net, optimizer)
    model.mark_forward_method("logits")
    started = run.seconds

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        random = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        for _ in range(count):
            energies, phones, lengths = crops(train_set, settings, random)
            energies = net.normalise(fabric.to_device(energies))
            yield masked(energies, masks=2, mels=6, frames=12, random=random), phones, lengths

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        features, phones, lengths = batch
        logits = model.logits(features, lengths).float().flatten(0, 1)
        smoothing = settings.label_smoothing
        return F.cross_entropy(logits, phones.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)

    run.fit(
        fabric,
        model,
        optimizer,
        batches,
        loss,
        epochs=settings.epochs,
        settings=settings,
        count=count,
        schedule=schedule,
        largest_gradient=5.0,
        watch=lambda: {"validation_accuracy": accuracy(predict(net, validation))},
        label=settings.network,
    )
    seconds = run.seconds - started
    net = net.eval().cpu()
    return Fitted(settings, net, accuracy(predict(net, validation)), seconds, device_name(fabric))


def crops(sentences: Features, settings: NetworkSettings, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of stretches at random, a little louder or softer: energies [N, crop, 48], phones [N, crop], lengths."""
    weights = torch.tensor([float(len(phones)) for _, phones in sentences])
    energies, phones = [], []
    for i in torch.multinomial(weights, settings.batch_size, replacement=True, generator=random).tolist():
        whole, labels = sentences[i]
        start = int(torch.randint(max(1, len(labels) - settings.crop + 1), (1,), generator=random))
        part = slice(start, start + settings.crop)
        missing = max(0, settings.crop - len(labels[part]))
        energies.append(F.pad(whole[part], (0, 0, 0, missing)))
        phones.append(F.pad(labels[part], (0, missing), value=IGNORED))
    loudness = torch.rand(settings.batch_size, 1, 1, generator=random) - 0.5
    labels = torch.stack(phones)
    return torch.stack(energies) + loudness, labels, (labels != IGNORED).sum(1, keepdim=True) * HOP


class Prediction(NamedTuple):
    """Of the frames of one sentence: phones predicted and phones aligned, int64 [T]."""

    predicted: NDArray[np.int64]
    aligned: NDArray[np.int64]


@torch.no_grad()
def predict(net: PhonemeClassifier, sentences: Features) -> list[Prediction]:
    """The most probable phone of every frame."""
    return [
        Prediction(logits.argmax(1).numpy(), phones.numpy())
        for logits, (_, phones) in zip(logits_of(net, sentences), sentences, strict=True)
    ]


@torch.no_grad()
def logits_of(net: PhonemeClassifier, sentences: Features) -> list[Tensor]:
    """Logits float32 [T, 51] of each sentence, on the CPU."""
    was_training, device = net.training, next(net.parameters()).device
    net.eval()
    logits = []
    for energies, phones in sentences:
        frames = len(phones)
        even = F.pad(net.normalise(energies.to(device)), (0, 0, 0, frames % 2))[None]
        lengths = torch.tensor([[frames * HOP]], device=device)
        logits.append(net.logits(even, lengths)[0, :frames].float().cpu())
    net.train(was_training)
    return logits


def accuracy(predictions: Sequence[Prediction]) -> float:
    """Share of frames whose phone is found."""
    predicted, aligned = (np.concatenate(part) for part in zip(*predictions, strict=True))
    return float((predicted == aligned).mean())


@torch.no_grad()
def calibrate(net: PhonemeClassifier, validation: Features) -> None:
    """Scale the logits so that probabilities mean what they say: one temperature, fitted on the validation split."""
    phones = torch.cat([phones for _, phones in validation])
    divisor = temperature(torch.cat(logits_of(net, validation)), phones)
    net.network.head.weight.div_(divisor)
    net.network.head.bias.div_(divisor)


def baselines(train_set: Features, test: Features) -> tuple[Baseline, ...]:
    """What the most frequent phone, a linear model and the simplest network reach."""
    phones = torch.cat([phones for _, phones in train_set])
    truth = torch.cat([phones for _, phones in test])
    most_frequent = phones.bincount().argmax()
    known, asked = (torch.cat([around(e) for e, _ in part]).numpy() for part in (train_set, test))
    predicted = Ridge(alpha=1.0).fit(known, F.one_hot(phones, len(PHONES)).float().numpy()).predict(asked).argmax(1)
    return (
        Baseline(name="most frequent phone", metric="accuracy", value=float((truth == most_frequent).float().mean())),
        Baseline(
            name="ridge regression on 11 frames", metric="accuracy", value=float(np.mean(predicted == truth.numpy()))
        ),
    )


def around(energies: Tensor, reach: int = 5) -> Tensor:
    """Each frame with its neighbours: [T, 48] -> [T, 48 * (2 * reach + 1)]."""
    padded = F.pad(energies.T, (reach, reach), mode="replicate")
    return padded.unfold(1, 2 * reach + 1, 1).permute(1, 0, 2).flatten(1)


def comparison(candidates: Sequence[Fitted], test: Features) -> Table:
    """All networks beside each other, as trained."""
    return Table(
        title="Networks: accuracy of frames",
        columns=("network", "parameters", "context in seconds", "validation", "test", "seconds of training"),
        rows=tuple(
            (
                c.settings.network,
                parameters(c.net),
                "all" if c.net.network.context is None else c.net.network.context / RATE,
                round(c.validation_accuracy, 4),
                round(accuracy(predict(c.net, test)), 4),
                round(c.seconds),
            )
            for c in candidates
        ),
    )


def plot_segments(sentence: Sentence, prediction: Prediction) -> bytes:
    """Energies of the first seconds of a sentence over the phones as aligned and as found, as a PNG file."""
    frames = min(len(prediction.aligned), 300)
    figure = Plot(figsize=(12, 4), layout="constrained")
    top, *lanes = figure.subplots(3, 1, sharex=True, height_ratios=(6, 1, 1))
    extent = (0, frames * HOP / RATE, 0, MELS)
    top.imshow(log_mels([sentence.samples])[0][:frames].T, origin="lower", aspect="auto", extent=extent, cmap="magma")
    top.set(ylabel="mel band", yticks=[])
    for axes, name, phones in zip(lanes, ("aligned", "found"), reversed(prediction), strict=True):
        phones = phones[:frames]
        edges = np.flatnonzero(np.diff(phones, prepend=-1, append=-1)) * HOP / RATE
        for i, (start, stop) in enumerate(pairwise(edges.tolist())):
            axes.axvspan(start, stop, color="0.93" if i % 2 else "0.8", lw=0)
            if stop - start >= 0.03:
                label = PHONES[phones[round(start * RATE / HOP)]]
                axes.text((start + stop) / 2, 0.5, label, ha="center", va="center", fontsize=7)
        axes.set(yticks=[], ylim=(0, 1), ylabel=name)
    lanes[-1].set(xlabel="seconds")
    return _png(figure)


def plot_confusion(predictions: Sequence[Prediction]) -> bytes:
    """For each aligned phone the shares of those found, as a PNG file."""
    predicted, aligned = (np.concatenate(part) for part in zip(*predictions, strict=True))
    counts = np.zeros((len(PHONES), len(PHONES)))
    np.add.at(counts, (aligned, predicted), 1)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    figure = Plot(figsize=(9, 8.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(PHONES))
    axes.set(xlabel="found", ylabel="aligned", xticks=ticks, yticks=ticks)
    axes.set_xticklabels(PHONES, rotation=90, fontsize=7)
    axes.set_yticklabels(PHONES, fontsize=7)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the frames of a phone")
    return _png(figure)


def parameters(net: nn.Module) -> int:
    """How many there are."""
    return sum(p.numel() for p in net.parameters())


def _per_frame(steps: Tensor) -> Tensor:
    """Logits [N, T, 2 * 51] of steps -> [N, 2 * T, 51] of frames."""
    items, length, _ = steps.shape
    return steps.reshape(items, 2 * length, len(PHONES))


def _png(figure: Plot) -> bytes:
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=100)
    return buffer.getvalue()
