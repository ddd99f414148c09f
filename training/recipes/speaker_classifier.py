"""HW4: who speaks, by self-attention; and whether two clips are of one speaker, enrolled or not.

A small Conformer (Gulati et al., 2020) whose steps are pooled by self-attention into mean and deviation (Okabe et al.,
"Attentive Statistics Pooling for Deep Speaker Embedding", 2018), trained with additive-margin softmax (Wang et al.,
"Additive Margin Softmax for Face Verification", 2018): the cosine between an embedding and its voice must beat those of
all others by a margin, so that embeddings of voices never heard before can be compared by their cosine too.

Each package was recorded in its own way, so a network may know a voice by its microphone. Half of the training clips
and those of the channel-normalised test are therefore cut to telephone bandwidth, flattened in spectrum, brought to one
loudness and given one noise floor.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import AudioPreprocessing, Baseline, Limits, Metric
from lectern.client import Client
from training import measures
from training.data import voices
from training.data.audio import TELEPHONE_RATE, Samples, resample
from training.data.voices import Split, Voices
from training.export.onnx import round_to_bytes
from training.measures import Decisions, Evaluation
from training.methods.calibration import temperature
from training.methods.speech import (
    HOP,
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
MEMORY = 4
SHIPPED = True
TARGET = 0.95
WINDOW_SECONDS = 6
LOUDNESS = 0.05  # root mean square of a channel-normalised clip, full scale 1
NOISE_DECIBELS = -35.0  # below it
FLATTENED_HERTZ = 400
CLIPS_A_REQUEST = 8
LIMITS = Limits(
    intended="Which of the known voices speaks, and how alike the voices of two clips are; never to prove who "
    "somebody is.",
    failures=(
        "The equal error rate of unknown voices, 0.191, is of 67 clips of five voices, where the cosine of "
        "statistics of mel bands reaches 0.196; on twelve other voices it is 0.213 (means of MFCC: 0.200).",
        "It compares channels more than voices: at the default threshold version 1 accepts 39 % of pairs of "
        "different voices, and 80 % of those recorded over one channel.",
        "Each package was recorded in its own way, so part of the accuracy of 0.990 is that of telling recordings "
        "apart; channel-normalised it is 0.973.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        reach: steps of 20 ms that attention sees on each side.
        crop: frames of one training example.
        scale, margin: of the additive-margin softmax.
    """

    epochs: int = 40
    batch_size: int = 64
    crop: int = 120
    width: int = 128
    blocks: int = 2
    heads: int = 4
    kernel: int = 9
    reach: int = 50
    embedding: int = 128
    dropout: float = 0.1
    peak_learning_rate: float = 2e-3
    weight_decay: float = 0.02
    scale: float = 24.0
    margin: float = 0.2


FULL = Settings()
FAST = Settings(epochs=3, batch_size=12, crop=60, width=32, blocks=1, embedding=16, reach=20)


class SpeakerClassifier(nn.Module):
    """PCM int16 [N, T] at 16 kHz with lengths int64 [N, 1] -> embedding float32 [N, 128] of length 1, logits [N, K].

    What lies behind a clip's length changes nothing.
    """

    scale: Tensor

    def __init__(self, settings: Settings, voices: int) -> None:
        super().__init__()
        width = settings.width
        self.front_end = LogMel()
        self.normalise = Normalise()
        self.steps = Steps(width)
        self.blocks = nn.ModuleList(
            ConformerBlock(width, settings.heads, settings.kernel, settings.reach, settings.dropout)
            for _ in range(settings.blocks)
        )
        self.attend = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))
        self.project = nn.Linear(2 * width, settings.embedding)
        self.voices = nn.Parameter(F.normalize(torch.randn(voices, settings.embedding)))
        self.register_buffer("scale", torch.tensor(settings.scale))

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings of length 1 for normalised energies [N, T, 48]."""
        x = self.steps(features * valid_frames(features, lengths))
        valid = valid_frames(x, lengths, STEP)
        for block in self.blocks:
            x = block(x, valid)
        weights = (self.attend(x).float().masked_fill(valid == 0, -1e4)).softmax(1)
        mean = (weights * x).sum(1)
        variance = (weights * (x - mean[:, None]).square()).sum(1)
        pooled = torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)
        return F.normalize(self.project(pooled).float(), dim=1)

    def cosines(self, embedding: Tensor) -> Tensor:
        """Between embeddings and voices, [N, K]."""
        return embedding @ F.normalize(self.voices, dim=1).T

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embed(self.normalise(self.front_end(whole_steps(samples))), lengths)
        return embedding, self.cosines(embedding) * self.scale


class Clips(NamedTuple):
    """Energies [T, 48] of clips and the voice of each, int64 [N]."""

    energies: list[Tensor]
    voices: Tensor


def train(run: Run) -> Trained:
    """Train, round the weights to 8 bits, and measure exactly that network."""
    settings = FAST if run.fast else FULL
    data = voices.load_sliver(run.sliver.with_suffix(".npz")) if run.fast else voices.load()
    validation, test = clips_of(data.validation), clips_of(data.test)
    normalised_test = clips_of(channel_normalised(data.test))
    net, device = fit(run, settings, data, validation)
    calibrate(net, validation)
    round_to_bytes(net)
    answers = predict(net, test)
    unknown = {
        split: scores_of(predict(net, clips_of(part)).embeddings, part.voices) for split, part in _unknown(data).items()
    }
    threshold = equal_error(unknown["validation"]).threshold
    evaluation = measured(Decisions.of(answers.logits), answers.embeddings, data.test)
    same, other, _ = unknown["test"]
    return Trained(
        title="Speaker classifier",
        lecture="HW4",
        capability="classify",
        task="speaker classification and verification",
        description=f"Tells {len(data.names)} voices apart, and compares others, by self-attention over a clip.",
        graphs={
            "forward": Graph(
                net,
                examples(data),
                ("embedding", "logits"),
                {"samples": (1,)},
                max_batch_size=8,
            )
        },
        preprocessing=AudioPreprocessing(sample_rate=RATE, window=WINDOW_SECONDS * RATE, step=STEP),
        labels=data.names,
        decision={"same_speaker_threshold": round(threshold, 4)},
        metrics=(
            *evaluation.metrics,
            normalised_accuracy(Decisions.of(predict(net, normalised_test).logits), data.test),
            error_rate("equal_error_rate_unknown_voices", unknown["test"]),
            measures.share(
                "accuracy",
                accuracy(predict(net, validation).logits, data.validation.voices),
                len(data.validation),
                "validation",
            ),
        ),
        limits=LIMITS,
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=baselines(data, test),
        figures=(
            Figure(
                "Scores of pairs of test clips of unknown voices, and the threshold",
                "scores.png",
                plot(same, other, threshold),
            ),
        ),
        data=voices.card_entries(data),
        device=device,
        parameters=sum(p.numel() for p in net.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Accuracy on the test clips, as they are and channel-normalised, and the equal error rate of their embeddings and
    of those of voices that it never heard."""
    data = voices.load()
    test, unknown = data.test, data.unknown_test
    (decisions, embeddings), (normalised, _), (_, strange) = (
        served(client, track, split) for split in (test, channel_normalised(test), unknown)
    )
    evaluation = measured(decisions, embeddings, test)
    further = (
        normalised_accuracy(normalised, test),
        error_rate("equal_error_rate_unknown_voices", scores_of(strange, unknown.voices)),
    )
    return replace(evaluation, metrics=(*evaluation.metrics, *further))


class Answers(NamedTuple):
    """Embeddings [N, E] and logits [N, K] of clips."""

    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]


def served(client: Client, track: Track, split: Split) -> tuple[Decisions, NDArray[np.float32]]:
    """The voices that a server decides for, and embeddings [N, E], of every clip, sent as raw samples."""
    starts = range(0, len(split), CLIPS_A_REQUEST)
    requests = [[(clip, RATE) for clip in split.clips[i : i + CLIPS_A_REQUEST]] for i in starts]
    results = [
        result
        for clips in track(requests, len(requests))
        for result in client.classify_audio(clips, "speaker_classifier", include_embedding=True).results
    ]
    best = [r.classes[0] for r in results]
    decisions = Decisions(np.array([c.index for c in best]), np.array([c.probability for c in best]))
    return decisions, np.array([r.embedding for r in results], np.float32)


def measured(decisions: Decisions, embeddings: NDArray[np.float32], test: Split) -> Evaluation:
    """Accuracy over clips, its mean over voices, and the equal error rate over all pairs of clips."""
    right = decisions.classes == test.voices
    by_voice = [float(right[test.voices == voice].mean()) for voice in range(len(test.names))]
    metrics = (
        measures.share("accuracy", float(right.mean()), len(test), target=TARGET),
        Metric(
            name="accuracy_mean_over_voices",
            value=float(np.mean(by_voice)),
            split="test",
            n=len(test),
            interval=measures.bootstrap(np.mean, by_voice),
        ),
        error_rate("equal_error_rate", scores_of(embeddings, test.voices)),
    )
    return measures.classified(decisions, test.voices, test.names, metrics)


def normalised_accuracy(decisions: Decisions, test: Split) -> Metric:
    """Of what is decided about the channel-normalised clips."""
    return measures.share("accuracy_channel_normalised", decisions.accuracy(test.voices), len(test))


def error_rate(name: str, scores: Scores) -> Metric:
    """The equal error rate over pairs of clips; a voice is in many pairs, so whole voices are resampled."""
    pairs = len(scores.same) + len(scores.other)
    voices = np.arange(scores.voices.max() + 1)
    interval = measures.bootstrap(
        lambda drawn: weighted_error(scores, np.bincount(drawn, minlength=len(voices))), voices
    )
    return Metric(name=name, value=equal_error(scores).rate, split="test", n=pairs, interval=interval)


def fit(run: Run, settings: Settings, data: Voices, validation: Clips) -> tuple[SpeakerClassifier, str]:
    """Train on the train split; the validation split is only watched. Returns the network and the device's name."""
    fabric = run.fabric("bf16-mixed")
    net = SpeakerClassifier(settings, len(data.names))
    variants = (clips_of(data.train), clips_of(channel_normalised(data.train)))
    net.normalise.fit([energies for clips in variants for energies in clips.energies])
    count = -(-len(data.train) // settings.batch_size)
    steps = settings.epochs * count
    optimizer, schedule = one_cycle(net, settings.peak_learning_rate, settings.weight_decay, steps, warm_up=0.15)
    model, optimizer = fabric.setup(net, optimizer)
    model.mark_forward_method("embed")

    def batches(epoch: int) -> Iterator[Batch]:
        random = torch.Generator().manual_seed(run.seed * 1_000_003 + epoch)
        for batch in crops(variants, settings, count, random):
            energies = net.normalise(fabric.to_device(batch.energies))
            yield batch._replace(energies=masked(energies, masks=2, mels=6, frames=10, random=random))

    def loss(batch: Batch) -> Tensor:
        embedding = model.embed(batch.energies, batch.lengths)
        margin = settings.margin * F.one_hot(batch.voices, len(data.names))
        return F.cross_entropy((net.cosines(embedding) - margin) * settings.scale, batch.voices)

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
        watch=lambda: {"validation_accuracy": accuracy(predict(net, validation).logits, validation.voices.numpy())},
    )
    return net.eval().cpu(), device_name(fabric)


class Batch(NamedTuple):
    """Energies [N, crop, 48], lengths in samples [N, 1], and voices [N]."""

    energies: Tensor
    lengths: Tensor
    voices: Tensor


def crops(variants: Sequence[Clips], settings: Settings, batches: int, random: torch.Generator) -> Iterator[Batch]:
    """Stretches at random of either variant of a clip, louder or softer, tilted in spectrum.

    A voice is drawn by the square root of how many clips it has, so that small ones are heard often enough.
    """
    voices = variants[0].voices
    weights = voices.bincount().float()[voices].rsqrt()
    for _ in range(batches):
        chosen = torch.multinomial(weights, settings.batch_size, replacement=True, generator=random)
        variant = torch.randint(len(variants), (settings.batch_size,), generator=random)
        parts, lengths = [], []
        for i, v in zip(chosen.tolist(), variant.tolist(), strict=True):
            whole = variants[v].energies[i]
            start = int(torch.randint(max(1, len(whole) - settings.crop + 1), (1,), generator=random))
            part = whole[start : start + settings.crop]
            parts.append(F.pad(part, (0, 0, 0, settings.crop - len(part))))
            lengths.append(len(part) * HOP)
        loudness, tilt = torch.rand(2, settings.batch_size, 1, 1, generator=random) * 4 - 2
        energies = torch.stack(parts)
        energies = energies + loudness + tilt * torch.linspace(-1, 1, energies.shape[2])
        yield Batch(energies, torch.tensor(lengths)[:, None], voices[chosen])


@torch.no_grad()
def predict(net: SpeakerClassifier, clips: Clips) -> Answers:
    """What a server would answer: of a clip of several windows the mean, weighted by how long each is."""
    was_training, device = net.training, next(net.parameters()).device
    net.eval()
    embeddings, logits = [], []
    for energies in clips.energies:
        windows = torch.split(energies.to(device), WINDOW_SECONDS * RATE // HOP)
        weights = torch.tensor([float(len(w)) for w in windows], device=device)[:, None] / len(energies)
        vectors = torch.cat([_embed(net, window) for window in windows])
        embeddings.append(F.normalize((weights * vectors).sum(0), dim=0).cpu())
        logits.append((weights * net.cosines(vectors) * net.scale).sum(0).cpu())
    net.train(was_training)
    return Answers(torch.stack(embeddings).numpy(), torch.stack(logits).numpy())


def clips_of(split: Split) -> Clips:
    """Energies of each clip; one shorter than a frame is filled up with silence."""
    clips = [np.pad(clip, (0, max(0, HOP - len(clip)))) for clip in split.clips]
    return Clips(log_mels(clips), torch.from_numpy(split.voices))


def channel_normalised(split: Split) -> Split:
    """The same clips without what their recording left in them: bandwidth, colour, loudness, noise floor."""
    random = np.random.default_rng(0)
    return Split(split.names, tuple(without_channel(clip, random) for clip in split.clips), split.voices)


def without_channel(clip: Samples, random: np.random.Generator) -> Samples:
    """One clip at telephone bandwidth, flat over bands of 400 Hz, at one loudness, with one level of white noise."""
    narrow = resample(resample(clip, RATE, TELEPHONE_RATE), TELEPHONE_RATE, RATE)[: len(clip)]
    samples = np.pad(narrow, (0, len(clip) - len(narrow))).astype(np.float64)
    spectrum = np.fft.rfft(samples)
    width = max(1, round(FLATTENED_HERTZ * len(samples) / RATE))
    level = np.sqrt(uniform_filter1d(np.abs(spectrum) ** 2, width, mode="nearest"))
    audible = np.fft.rfftfreq(len(samples), 1 / RATE) < TELEPHONE_RATE / 2 * 0.95
    flat = np.fft.irfft(np.where(audible, spectrum / (level + 1e-3 * level.max() + 1e-9), 0), len(samples))
    loud = flat * LOUDNESS / (np.sqrt(np.mean(flat**2)) + 1e-9)
    noisy = loud + random.normal(0, LOUDNESS * 10 ** (NOISE_DECIBELS / 20), len(loud))
    rounded: Samples = (noisy * 32768).round().clip(-32768, 32767).astype(np.int16)
    return rounded


@torch.no_grad()
def calibrate(net: SpeakerClassifier, validation: Clips) -> None:
    """Choose the scale of the cosines so that probabilities mean what they say, on the validation split."""
    net.scale.div_(temperature(torch.from_numpy(predict(net, validation).logits), validation.voices))


def accuracy(logits: NDArray[np.float32], voices: NDArray[np.int64]) -> float:
    """Share of clips whose voice is found."""
    return float((logits.argmax(1) == voices).mean())


class Scores(NamedTuple):
    """Cosines between the embeddings of all pairs of clips of one voice [P], and of two [Q], in ascending order; and
    which voices these are, int64 [P + Q, 2], those of one voice first."""

    same: NDArray[np.float32]
    other: NDArray[np.float32]
    voices: NDArray[np.int64]


def scores_of(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> Scores:
    """Of every pair of clips."""
    first, second = np.triu_indices(len(labels), 1)
    cosines = (embeddings @ embeddings.T)[first, second]
    same, voices = labels[first] == labels[second], np.stack([labels[first], labels[second]], axis=1)
    orders = [np.flatnonzero(mask)[np.argsort(cosines[mask])] for mask in (same, ~same)]
    return Scores(cosines[orders[0]], cosines[orders[1]], voices[np.concatenate(orders)])


class EqualError(NamedTuple):
    """The threshold at which as large a share of pairs of one voice is missed as of two voices is accepted."""

    rate: float
    threshold: float


def weighted_error(scores: Scores, counts: NDArray[np.int64]) -> float:
    """The rate at which both errors meet where each voice is there `counts` times, [voices]; not a number where only
    one is, as there are no pairs of two."""
    if np.count_nonzero(counts) < 2:
        return float("nan")
    first, second = (counts[voices] for voices in scores.voices.T)
    pairs = len(scores.same)
    missed, passed = np.cumsum(first[:pairs]), np.cumsum((first * second)[pairs:])
    places = np.searchsorted(scores.other, scores.same)  # how many pairs of two voices score less
    rejected = np.concatenate([[0], passed])[places] / passed[-1]
    missed_shares = (missed - first[:pairs]) / missed[-1]
    best = np.argmin(np.abs(missed_shares - (1 - rejected)))
    return float((missed_shares[best] + 1 - rejected[best]) / 2)


def equal_error(scores: Scores) -> EqualError:
    """Where both errors meet."""
    same, other, _ = scores
    thresholds = np.concatenate([same, other])
    missed = np.searchsorted(same, thresholds, side="left") / len(same)
    accepted = 1 - np.searchsorted(other, thresholds, side="left") / len(other)
    best = np.argmin(np.abs(missed - accepted))
    return EqualError(float((missed[best] + accepted[best]) / 2), float(thresholds[best]))


def baselines(data: Voices, test: Clips) -> tuple[Baseline, ...]:
    """What the mean and deviation of each mel band over a clip tell."""
    train_set = clips_of(data.train)
    scaler = StandardScaler().fit(statistics(train_set))
    known, asked = (scaler.transform(statistics(clips)) for clips in (train_set, test))
    linear = LogisticRegression(max_iter=300).fit(known, data.train.voices)
    unit = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    unknown = scaler.transform(statistics(clips_of(data.unknown_test)))
    unknown /= np.linalg.norm(unknown, axis=1, keepdims=True)
    rates = {
        "equal_error_rate": equal_error(scores_of(unit, data.test.voices)).rate,
        "equal_error_rate_unknown_voices": equal_error(scores_of(unknown, data.unknown_test.voices)).rate,
    }
    name = "statistics of mel bands"
    return (
        Baseline(
            name=f"logistic regression on {name}", metric="accuracy", value=float(linear.score(asked, data.test.voices))
        ),
        *(Baseline(name=f"cosine of {name}", metric=metric, value=rate) for metric, rate in rates.items()),
    )


def statistics(clips: Clips) -> NDArray[np.float32]:
    """Mean and deviation over time, [N, 96]."""
    return np.stack([np.concatenate([e.mean(0), e.std(0, correction=0)]) for e in clips.energies])


def examples(data: Voices) -> dict[str, Tensor]:
    """A few test clips, cut or filled up to a second."""
    clips = [clip[:RATE] for clip in data.test.clips[:: max(1, len(data.test) // 4)]][:4]
    samples = np.stack([np.pad(clip, (0, RATE - len(clip))) for clip in clips])
    return {"samples": torch.from_numpy(samples), "lengths": torch.tensor([[len(clip)] for clip in clips])}


def plot(same: NDArray[np.float32], other: NDArray[np.float32], threshold: float) -> bytes:
    """How the scores of pairs of one voice and of two are distributed, as a PNG file."""
    figure = Plot(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(-1, 1, 61).tolist()
    for values, label in ((other, "two voices"), (same, "one voice")):
        axes.hist(values, bins, density=True, alpha=0.6, label=label)
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="cosine between the embeddings of two clips", yticks=[])
    axes.legend(frameon=False)
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=100)
    return buffer.getvalue()


def _unknown(data: Voices) -> dict[str, Split]:
    return {"validation": data.unknown_validation, "test": data.unknown_test}


def _embed(net: SpeakerClassifier, energies: Tensor) -> Tensor:
    frames = len(energies)
    even = F.pad(net.normalise(energies), (0, 0, 0, frames % 2))[None]
    return net.embed(even, torch.tensor([[frames * HOP]], device=energies.device))
