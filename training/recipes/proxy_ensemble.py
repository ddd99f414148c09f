"""HW10: nets of other architectures, whose gradients attack models that show none: the course's black box.

What fools several nets often fools one that was never seen (Liu et al., "Delving into Transferable Adversarial Examples
and Black-box Attacks", 2017); their logits are averaged, as in Dong et al., "Boosting Adversarial Attacks with
Momentum", 2018. The nets know nothing of what they are to fool but its training split.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Card, ImagePreprocessing, Limits, Table
from lectern.client import Client
from lectern.methods import evaluated_attack
from training import measures
from training.data import cifar10
from training.data.cifar10 import Cifar10, Split
from training.export.explanation import attackable
from training.export.onnx import round_to_bytes
from training.measures import Decisions, Evaluation
from training.methods.adversarial import first_of_each_class, labelled_files
from training.methods.photos import fit_labels, logits_of, score
from training.optimise import nesterov
from training.recipes.image_classifier import MEAN, STD, ImageClassifier
from training.recipes.robust_classifier import Convolution, RobustClassifier
from training.run import Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 4
SHIPPED = True
TARGET = 0.10
SERVED_SECONDS = 3_600
BATCH = 250
LIMITS = Limits(
    intended="Attacks on classifiers that show no gradients, to measure how far these withstand them.",
    failures=(
        "As a classifier it is weaker than what it attacks: 0.884 beside image_classifier's 0.935.",
        "It attacks classifiers of CIFAR-10 alone.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters; `width` scales every net."""

    nets: tuple[str, ...] = ("plain", "dense", "residual", "whitened")
    epochs: int = 12
    batch_size: int = 256
    width: int = 24
    peak_learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    translate: int = 4


FULL = Settings()
FAST = Settings(nets=("plain", "whitened"), epochs=1, batch_size=40, width=4)


class Plain(nn.Module):
    """Convolutions and max pooling, after VGG (Simonyan & Zisserman 2015): features [N, 4 * width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 3 * width, 4 * width)
        self.layers = nn.ModuleList(Convolution(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.max_pool2d(F.relu(layer(x)), 2)
        return x.amax((2, 3))


class Dense(nn.Module):
    """Each convolution sees what all before it gave, after DenseNet (Huang et al. 2017): features [N, 6 * width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.stem = Convolution(3, width)
        self.first = nn.ModuleList(Convolution(width + i * half, half) for i in range(4))
        self.between = Convolution(3 * width, 2 * width)
        self.second = nn.ModuleList(Convolution(2 * width + i * width, width) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        for layer in self.first:
            x = torch.cat([x, F.relu(layer(x))], 1)
        x = F.max_pool2d(F.relu(self.between(x)), 2)
        for layer in self.second:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return x.mean((2, 3))


class Headed(nn.Module):
    """Photos uint8 or float [N, 32, 32, 3] with values 0..255 -> logits [N, 10], by a body that gives features."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN) * 255)
        self.register_buffer("std", torch.tensor(STD) * 255)
        self.body = body
        self.head = nn.Linear(features, len(cifar10.LABELS))

    def forward(self, photos: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(((photos - self.mean) / self.std).permute(0, 3, 1, 2)))
        return logits


class Ensemble(nn.Module):
    """The mean of several nets' logits."""

    def __init__(self, nets: dict[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def forward(self, photos: Tensor) -> Tensor:
        logits: Tensor = torch.stack([net(photos) for net in self.nets.values()]).mean(0)
        return logits


def nets_of(width: int) -> dict[str, nn.Module]:
    """The nets, untrained."""
    return {
        "plain": Headed(Plain(width), 4 * width),
        "dense": Headed(Dense(width), 6 * width),
        "residual": RobustClassifier((width, 3 * width // 2, 3 * width), (1, 1)),
        "whitened": ImageClassifier((width, 2 * width, 3 * width)),
    }


def train(run: Run) -> Trained:
    """Train each net by itself, fold the batch norms, round the weights to 8 bits, and measure exactly that."""
    settings = FAST if run.fast else FULL
    data = cifar10.load_sliver(run.sliver.with_name("image_classifier.npz")) if run.fast else cifar10.load()
    fabric = run.fabric("bf16-mixed")
    nets = {name: net for name, net in nets_of(settings.width).items() if name in settings.nets}
    for number, (name, net) in enumerate(nets.items()):
        if isinstance(net, ImageClassifier):
            net.set_whitening(torch.from_numpy(data.train.images[:5000]).float())
        fit(run, fabric, settings, data, name, net, run.seed + number)
    ensemble = round_to_bytes(Ensemble({name: folded(net.eval().cpu()) for name, net in nets.items()}).eval())
    examples = torch.from_numpy(data.test.images[:8])
    rows = tuple(
        (name, sum(p.numel() for p in net.parameters()), score(net, data.test)) for name, net in ensemble.nets.items()
    )
    evaluation = measured(Decisions.of(logits_of(ensemble, data.test.images)), data.test)
    return Trained(
        title="Proxies for black-box attacks",
        lecture="HW10",
        capability="defend",
        task="image classification",
        description="Four small nets of different architectures, whose mean gradient attacks classifiers of photos.",
        graphs={
            "forward": Graph(ensemble, {"images": examples}, ("logits",)),
            "gradient": attackable(ensemble, {"images": examples[:4].float()}, "logits"),
        },
        preprocessing=ImagePreprocessing(height=32, width=32, channels=3, resample="box"),
        labels=cifar10.LABELS,
        limits=LIMITS,
        metrics=(
            *evaluation.metrics,
            measures.share("accuracy", score(ensemble, data.validation), len(data.validation), "validation"),
        ),
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        tables=(Table(title="The nets", columns=("architecture", "parameters", "accuracy"), rows=rows),),
        data=(cifar10.SOURCE.entry_of(data),),
        device=device_name(fabric),
        parameters=sum(p.numel() for p in ensemble.parameters()),
    )


def fit(run: Run, fabric: Fabric, settings: Settings, data: Cifar10, name: str, net: nn.Module, seed: int) -> None:
    """Train one net on the train split; the validation split is only watched."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = nesterov(parameters, settings.peak_learning_rate, settings.momentum, settings.weight_decay)
    fit_labels(run, fabric, net, optimizer, data, settings, seed, name)


def folded(net: nn.Module) -> nn.Module:
    """The same net without batch norms."""
    if isinstance(net, (ImageClassifier, RobustClassifier)):
        return net.fold_norms()
    for module in net.modules():
        if isinstance(module, Convolution):
            module.fold()
    return net


def measured(decisions: Decisions, test: Split) -> Evaluation:
    """What the ensemble's decisions on the test photos amount to."""
    accuracy = measures.share("accuracy", decisions.accuracy(test.labels), len(test))
    return measures.classified(decisions, test.labels, cifar10.LABELS, (accuracy,))


def unserved(card: Card, repository: Path, track: Track) -> Evaluation:
    """What the exported ensemble says of the test photos; a server lends its gradient alone."""
    test, session = (
        cifar10.load().test,
        onnxruntime.InferenceSession(repository / card.name / f"{card.version}/model.onnx"),
    )
    starts = range(0, len(test), BATCH)
    batches = (session.run(["logits"], {"images": test.images[i : i + BATCH]})[0] for i in starts)
    return measured(Decisions.of(np.concatenate(list(track(batches, len(starts))))), test)


def evaluate(client: Client, track: Track) -> Evaluation:
    """The course's protocol: what `image_classifier` still gets right of 20 test photos of each class when proxies
    attack it."""
    test = first_of_each_class(cifar10.load().test)
    attack = evaluated_attack("di_mi_fgsm", gradient_of="proxy_ensemble", steps=20, step_size=1 / 255)
    cells = client.evaluate_robustness(labelled_files(test), [attack], (), "image_classifier", timeout=SERVED_SECONDS)
    clean, attacked = (cell.accuracy for cell in track(cells, 2))
    return Evaluation(
        (
            measures.share("image_classifier_clean_accuracy", clean, len(test)),
            measures.share("image_classifier_black_box_accuracy", attacked, len(test), target=TARGET, at_most=True),
        )
    )
