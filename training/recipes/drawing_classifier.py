"""HW11: a classifier of photos learns to tell drawings of the same ten kinds apart, without one label of a drawing.

All methods start from `image_classifier`, the network trained on photos alone, and see labelled photos and unlabelled
drawings:

- its batch norms take their statistics from drawings (Li et al., "Revisiting Batch Normalization For Practical Domain
  Adaptation", 2016);
- DANN: a domain classifier's reversed gradient makes features of both domains alike (Ganin et al., "Domain-Adversarial
  Training of Neural Networks", 2016);
- self-training: what a moving average of the network is sure of in a drawing is the label of a distorted view of it
  (Sohn et al., "FixMatch", 2020; French et al., "Self-ensembling for Visual Domain Adaptation", 2018), with the
  confidence threshold relative to that on photos (Berthelot et al., "AdaMatch", 2022). Photos are half the time reduced
  to their edges. This one is exported.

No choice here looks at a drawing's label; the test split of the drawings only measures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, ImagePreprocessing, Limits, Table
from lectern.client import Client
from training import measures
from training.data import cifar10, drawings, iconify
from training.data.cifar10 import Cifar10, Split
from training.data.drawings import Drawings
from training.export.explanation import Explainable, explainable
from training.export.onnx import round_to_bytes, served_graph
from training.measures import Decisions, Evaluation
from training.methods.photos import logits_of, score, served_decisions
from training.optimise import nesterov
from training.recipes.image_classifier import LAYERS, Block, ImageClassifier
from training.recipes.image_classifier import restore as image_classifier_of
from training.run import EXPORTED, Run, device_name
from training.served import Track
from training.trained import Figure, Graph, Trained

NEEDS = {"source": "image_classifier"}
MEMORY = 4
SHIPPED = True
GAIN = 0.12  # over the network that saw photos alone
SOURCE_ONLY = "source only"
STATISTICS_PHOTOS = 2_000
LIMITS = Limits(
    intended="Drawings, icons and emoji of one object of CIFAR-10's ten classes, on an even background.",
    failures=(
        "Version 1 classifies 0.50 of drawings correctly that are saved as JPEG of 32 x 32 pixels, and 0.74 of the "
        "same drawings as PNG.",
        "It always answers with one of its classes.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of every method.

    Args:
        batch_size: photos, and drawings, of a step.
        confidence: share of the mean confidence on photos that a drawing's label must reach.
        average: decay of the moving average of the network.
    """

    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    confidence: float = 0.9
    average: float = 0.98
    domain_width: int = 256


FULL = Settings()
FAST = Settings(steps=2, batch_size=8)
STEPS_A_ROUND = 50
STATISTICS_BATCH = 256


class ReversedGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -strength (Ganin et al., 2016)."""

    @staticmethod
    def forward(context: Any, x: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None


class Dann(nn.Module):
    """The network with a domain classifier on its features, whose gradient reaches the network reversed."""

    def __init__(self, net: ImageClassifier, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.net = net
        width = settings.domain_width
        self.domain = nn.Sequential(
            nn.Linear(net.head.in_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, batch: Batch, progress: float) -> Tensor:
        """Cross-entropy of photos plus that of the domains; `progress` in 0..1 raises the reversal's strength."""
        photos, pictures = self.net.features(batch.photos), self.net.features(batch.drawings)
        strength = 2 / (1 + math.exp(-10 * progress)) - 1
        reversing: Tensor = ReversedGradient.apply(torch.cat([photos, pictures]), strength)  # type: ignore[no-untyped-call]
        domains = self.domain(reversing).squeeze(1).float()
        truth = torch.cat([torch.ones(len(photos)), torch.zeros(len(pictures))]).to(domains.device)
        logits = self.net.head(photos).float()
        labelled = F.cross_entropy(logits, batch.labels, label_smoothing=self.settings.label_smoothing)
        return labelled + F.binary_cross_entropy_with_logits(domains, truth)

    def adapted(self) -> ImageClassifier:
        """The network to use."""
        return self.net


class SelfTraining(nn.Module):
    """The network, and a moving average of it that labels the drawings it is sure of."""

    def __init__(self, net: ImageClassifier, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.net = net
        self.average = deepcopy(net).requires_grad_(False)

    def forward(self, batch: Batch, progress: float) -> Tensor:
        """Cross-entropy of distorted photos plus that of distorted drawings with the labels that the average is sure
        of."""
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.settings.average)
            threshold = self.settings.confidence * self.average(batch.photos).float().softmax(1).amax(1).mean()
            confidence, labels = self.average(batch.drawings).float().softmax(1).max(1)
        photos, pictures = self.net(batch.photos_distorted).float(), self.net(batch.drawings_distorted).float()
        guessed = F.cross_entropy(pictures, labels, reduction="none") * (confidence >= threshold)
        labelled = F.cross_entropy(photos, batch.labels, label_smoothing=self.settings.label_smoothing)
        loss: Tensor = labelled + guessed.mean()
        return loss

    def adapted(self) -> ImageClassifier:
        """The network to use."""
        return self.average


def train(run: Run) -> Trained:
    """Adapt `image_classifier` in each way, measure all on the test drawings, and export the self-trained network."""
    settings = FAST if run.fast else FULL
    data, target = load(run)
    source = photo_network(data.train.images[:STATISTICS_PHOTOS])
    adversarial, device = fit(run, settings, Dann(deepcopy(source), settings), data, target)
    taught, _ = fit(run, settings, SelfTraining(deepcopy(source), settings), data, target)
    nets = {
        SOURCE_ONLY: source,
        "statistics of drawings": with_statistics_of(source, target.train.images),
        "DANN": adversarial,
        "self-training": taught,
    }
    served = round_to_bytes(deepcopy(nets["self-training"]).fold_norms())
    scores = {name: score(net, target.test) for name, net in nets.items()} | {
        "self-training": score(served, target.test)
    }
    evaluation = measured(Decisions.of(logits_of(served, target.test.images)), scores[SOURCE_ONLY], target.test)
    sample = Sample.of(data.test, target.test)
    features = {name: features_of(net, sample.images) for name, net in nets.items()}
    confusion = {name: domain_accuracy(vectors, sample.domains) for name, vectors in features.items()}
    rows = tuple((name, scores[name], score(net, data.test), confusion[name]) for name, net in nets.items())
    explained = explain(served, target)
    title = "Features of photos (dots) and drawings (crosses) by class, t-SNE"
    return Trained(
        title="Classifier of drawings",
        lecture="HW11",
        capability="classify",
        task="image classification",
        description=(
            "Sorts drawings, icons and emoji of 32 x 32 pixels into CIFAR-10's ten classes. It learned from labelled "
            "photos and unlabelled drawings: image_classifier, adapted by self-training."
        ),
        graphs={"forward": forward(served, target), **explained.graphs},
        explanation=explained.explanation,
        preprocessing=ImagePreprocessing(height=32, width=32, channels=3, resample="box"),
        labels=cifar10.LABELS,
        metrics=(*evaluation.metrics,),
        limits=LIMITS,
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=tuple(
            Baseline(name=name, metric="accuracy", value=value)
            for name, value in scores.items()
            if name != "self-training"
        ),
        tables=(
            Table(
                title="Adaptation: accuracy, and how well a linear model tells the two domains' features apart",
                columns=("method", "accuracy, drawings", "accuracy, photos", "domain classifier's accuracy"),
                rows=rows,
            ),
        ),
        figures=(Figure(title, "features.png", plot(features, sample)),),
        data=(iconify.SOURCE.entry_of(target), cifar10.SOURCE.entry_of(data)),
        device=device,
        parameters=sum(p.numel() for p in served.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Accuracy on the test drawings, sent as PNG files, beside that of `image_classifier` on the same drawings."""
    test = drawings.load().test
    adapted, source = (
        served_decisions(client, track, test.images, model) for model in ("drawing_classifier", "image_classifier")
    )
    return measured(adapted, source.accuracy(test.labels), test)


def measured(adapted: Decisions, source: float, test: Split) -> Evaluation:
    """What decisions on the test drawings amount to, beside the accuracy of the unadapted network."""
    n = len(test)
    metrics = (
        measures.share("accuracy", adapted.accuracy(test.labels), n, target=source + GAIN),
        measures.share("accuracy_source_only", source, n),
    )
    return measures.classified(adapted, test.labels, cifar10.LABELS, metrics)


def forward(served: nn.Module, data: Drawings) -> Graph:
    """The graph that answers."""
    return Graph(served, {"images": torch.from_numpy(data.test.images[:8])}, ("logits",), max_batch_size=64)


def full_data() -> Drawings:
    """What it is tested on, and learns from without labels."""
    return drawings.load()


def restore(content: bytes) -> ImageClassifier:
    """The network that was exported to the ONNX file `content`."""
    return image_classifier_of(content)


def explain(served: nn.Module, data: Drawings) -> Explainable:
    """What ExplainService needs of it."""
    examples = {"images": torch.from_numpy(data.test.images[:4]).float()}
    return explainable(served, examples, "logits", labelled=True, layers=LAYERS)


def load(run: Run) -> tuple[Cifar10, Drawings]:
    """Photos and drawings; in a fast run a sliver of each."""
    if run.fast:
        photos = cifar10.load_sliver(run.sliver.with_name("image_classifier.npz"))
        return photos, drawings.load_sliver(run.sliver.with_suffix(".npz"))
    return cifar10.load(), drawings.load()


@dataclass(frozen=True)
class Sample:
    """As many photos as drawings, to compare their features."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    domains: NDArray[np.bool_]

    @classmethod
    def of(cls, photos: Split, pictures: Split) -> Sample:
        """The first items of each."""
        n = min(len(photos), len(pictures))
        both = (photos[:n], pictures[:n])
        images, labels = (np.concatenate([getattr(s, name) for s in both]) for name in ("images", "labels"))
        return cls(images, labels, np.arange(2 * n) >= n)


@torch.no_grad()
def features_of(net: ImageClassifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features float32 [N, width] of images, each of unit variance over the images."""
    vectors = torch.cat([net.eval().features(batch) for batch in torch.split(torch.from_numpy(images), 256)])
    scaled: NDArray[np.float32] = StandardScaler().fit_transform(vectors.numpy())
    return scaled


def domain_accuracy(features: NDArray[np.float32], domains: NDArray[np.bool_]) -> float:
    """Share of held-out items whose domain a logistic regression on features gets right: 0.5 if they are alike."""
    return float(cross_val_score(LogisticRegression(max_iter=1000, C=0.01), features, domains, cv=5).mean())


def plot(features: Mapping[str, NDArray[np.float32]], sample: Sample) -> bytes:
    """The features of each network in two dimensions (van der Maaten & Hinton, "t-SNE", 2008), as a PNG file."""
    figure = Plot(figsize=(4 * len(features), 4.3), layout="constrained")
    for axes, (name, vectors) in zip(figure.subplots(1, len(features)), features.items(), strict=True):
        perplexity = min(30, len(vectors) // 4)
        flat = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
        for domain, marker, size in ((False, ".", 20), (True, "x", 14)):
            x, y = flat[sample.domains == domain].T
            points = axes.scatter(
                x, y, size, sample.labels[sample.domains == domain], marker, cmap="tab10", vmin=-0.5, vmax=9.5
            )
        axes.set(title=name, xticks=[], yticks=[])
    bar = figure.colorbar(points, ax=figure.axes, ticks=range(len(cifar10.LABELS)), aspect=40, pad=0.01)
    bar.ax.set_yticklabels(cifar10.LABELS)
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=100)
    return buffer.getvalue()


def fit(
    run: Run, settings: Settings, method: Dann | SelfTraining, data: Cifar10, target: Drawings
) -> tuple[ImageClassifier, str]:
    """Adapt to the unlabelled drawings of the train split; returns the network, whose batch norms have their
    statistics, and the device's name."""
    fabric = run.fabric("bf16-mixed")
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = nesterov(parameters, settings.learning_rate, settings.momentum, settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    model, optimizer = fabric.setup(method.to(memory_format=torch.channels_last), optimizer)  # type: ignore[call-overload]
    name = type(method).__name__

    def batches(turn: int) -> Iterator[tuple[Batch, float]]:
        first = turn * STEPS_A_ROUND
        steps = range(first, min(first + STEPS_A_ROUND, settings.steps))
        drawn = pairs(data, target, settings.batch_size, run.seed * 1_000_003 + turn)
        for step, batch in zip(steps, drawn, strict=False):
            yield batch, step / settings.steps

    run.fit(
        fabric,
        model,
        optimizer,
        batches,
        lambda batch: model(*batch),
        epochs=-(-settings.steps // STEPS_A_ROUND),
        settings=(name, settings),
        count=min(STEPS_A_ROUND, settings.steps),
        schedule=schedule,
        label=name,
    )
    return with_statistics_of(method.adapted().cpu(), target.train.images), device_name(fabric)


@torch.no_grad()
def photo_network(photos: NDArray[np.uint8]) -> ImageClassifier:
    """`image_classifier` as it is exported, its batch norms put back so that nothing changes for these photos."""
    net = image_classifier_of(served_graph(EXPORTED / NEEDS["source"]))
    norms = []
    for block in net.blocks:
        assert isinstance(block, Block)
        block.norm1, block.norm2 = (nn.BatchNorm2d(conv.out_channels) for conv in (block.conv1, block.conv2))
        norms += [block.norm1, block.norm2]
    hooks = [norm.register_forward_pre_hook(_make_identity) for norm in norms]
    net.eval()(torch.from_numpy(photos))
    for norm, hook in zip(norms, hooks, strict=True):
        norm.weight.requires_grad_(False)  # stays positive, so that the norm can be folded across the max pooling
        hook.remove()
    return net


def _make_identity(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    norm.load_state_dict(
        {"running_mean": mean, "running_var": variance, "bias": mean, "weight": (variance + norm.eps).sqrt()},
        strict=False,
    )


@torch.no_grad()
def with_statistics_of(net: ImageClassifier, images: NDArray[np.uint8]) -> ImageClassifier:
    """A copy whose batch norms have these images' statistics."""
    net = deepcopy(net).train()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    for batch in torch.split(torch.from_numpy(images), STATISTICS_BATCH):
        net(batch)
    return net.eval()


class Batch(NamedTuple):
    """Labelled photos and unlabelled drawings, float32 [N, 32, 32, 3], once a little moved and once distorted."""

    photos: Tensor
    labels: Tensor
    drawings: Tensor
    photos_distorted: Tensor
    drawings_distorted: Tensor


def pairs(data: Cifar10, target: Drawings, batch_size: int, seed: int) -> Iterator[Batch]:
    """Random batches without end."""
    random = torch.Generator().manual_seed(seed)
    photos, labels, pictures = map(torch.from_numpy, (data.train.images, data.train.labels, target.train.images))
    while True:
        chosen = torch.randint(len(photos), (batch_size,), generator=random)
        photo = channels_first(photos[chosen])
        drawing = channels_first(pictures[torch.randint(len(pictures), (batch_size,), generator=random)])
        reduced = moved(photo, 0.3, random)
        sketch = torch.rand(batch_size, 1, 1, 1, generator=random) < 0.5
        distorted = torch.where(sketch, edges(reduced), recoloured(reduced, random))
        yield Batch(
            photos=channels_last(moved(photo, 0.3, random)),
            labels=labels[chosen],
            drawings=channels_last(moved(drawing, 0.3, random)),
            photos_distorted=channels_last(distorted),
            drawings_distorted=channels_last(cut(recoloured(moved(drawing, 1.0, random), random), random)),
        )


def moved(images: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """Images [N, 3, H, W], half of them mirrored; at amount 1 turned by up to 15 degrees, shrunk by up to 30 %, and
    shifted by up to an eighth of their size."""
    n = len(images)
    angle, shrink, right, down = (amount * (torch.rand(4, n, generator=random) * 2 - 1)).unbind()
    angle, scale = angle * math.radians(15), 1 + 0.2 * shrink + 0.1 * amount
    mirror = torch.where(torch.rand(n, generator=random) < 0.5, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = (torch.stack([cos * mirror, -sin, right / 4], 1), torch.stack([sin * mirror, cos, down / 4], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    resampled: Tensor = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return resampled


def recoloured(images: Tensor, random: torch.Generator) -> Tensor:
    """Images [N, 3, H, W] of values 0..255: some grey, some inverted, all with another contrast and brightness."""
    n = len(images)
    grey, inverted, contrast, brightness = torch.rand(4, n, 1, 1, 1, generator=random)
    images = torch.where(grey < 0.4, images.mean(1, keepdim=True), images)
    images = torch.where(inverted < 0.2, 255 - images, images)
    changed: Tensor = (images - 128) * (0.6 + 0.8 * contrast) + 128 + 60 * (brightness - 0.5)
    return changed.clamp(0, 255)


def edges(images: Tensor) -> Tensor:
    """Dark lines on white where brightness changes (Sobel), as a drawing has them; images [N, 3, H, W], 0..255."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([across, across.T])[:, None].to(images.device)
    slopes = F.conv2d(F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate"), kernels)
    lines: Tensor = 255 - torch.linalg.vector_norm(slopes, dim=1, keepdim=True)
    return lines.clamp(0, 255).expand_as(images)


def cut(images: Tensor, random: torch.Generator) -> Tensor:
    """Images [N, 3, H, W] with a grey square of 10 x 10 pixels somewhere (DeVries & Taylor, "Cutout", 2017)."""
    height, width = images.shape[2:]
    top, left = (torch.rand(len(images), 1, generator=random) * (size - 10) for size in (height, width))
    rows, columns = torch.arange(height), torch.arange(width)
    inside = ((rows >= top) & (rows < top + 10))[:, None, :, None] & ((columns >= left) & (columns < left + 10))[
        :, None, None
    ]
    return torch.where(inside, torch.full_like(images, 128.0), images)


def channels_first(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float()


def channels_last(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)
