"""What recipes about attacks share: attacked photos to train on and to measure with, and the detector of attacks.

Photos are `[N, 32, 32, 3]` of 0..255, as networks take them, and so are sizes of changes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts import squeezing
from artifacts.card import Metric
from training import measures
from training.data.cifar10 import LABELS, Split
from training.methods.photos import logits_of
from training.served import png

EPSILON = 8.0
PGD_STEP = 2.0
BATCH = 250
OF_EACH_CLASS = 20  # first test photos: the course's protocol
DETECTED_STEPS, TARGET_DETECTOR = 10, 0.85
DETECTOR_AUC = "detector_roc_auc"
LogitsOf = Callable[[NDArray[np.uint8]], Tensor]


def loss_gradient(net: nn.Module, photos: Tensor, labels: Tensor) -> Tensor:
    """Derivative of the cross-entropy by photos; parameters get none."""
    photos = photos.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(net(photos).float(), labels, reduction="sum")
        return torch.autograd.grad(loss, photos)[0]


def pgd(
    net: nn.Module,
    photos: Tensor,
    labels: Tensor,
    steps: int,
    random: torch.Generator,
    epsilon: float = EPSILON,
    step: float = PGD_STEP,
) -> Tensor:
    """Photos attacked by projected gradient descent from a random start, L-inf (Madry et al. 2018)."""
    start = epsilon * (2 * torch.rand(photos.shape, generator=random) - 1).to(photos.device)
    attacked = (photos + start).clamp(0, 255)
    for _ in range(steps):
        moved = attacked + step * loss_gradient(net, attacked, labels).sign()
        attacked = torch.clamp(moved, photos - epsilon, photos + epsilon).clamp(0, 255)
    return attacked


def robust_accuracy(net: nn.Module, split: Split, steps: int, seed: int = 0) -> float:
    """Share of a split that a network still gets right under PGD."""
    net.eval()
    device = next(net.parameters()).device
    random = torch.Generator().manual_seed(seed)
    hits = 0
    for start in range(0, len(split), BATCH):
        part = split[start : start + BATCH]
        photos, labels = (torch.from_numpy(array).to(device) for array in (part.images, part.labels))
        attacked = pgd(net, photos.float(), labels, steps, random)
        with torch.no_grad():
            hits += int((net(attacked).argmax(1) == labels).sum())
    return hits / len(split)


def detector_scores(logits_of: LogitsOf, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the detector finds in each image: the more, the likelier is an attack."""
    answers = [logits_of(copy).softmax(1).numpy() for copy in (images, *squeezing.squeezed(images))]
    return squeezing.scores(answers[0], answers[1:])


def detector_thresholds(logits_of: LogitsOf, images: NDArray[np.uint8]) -> dict[str, float]:
    """What a card's `decision` says of the detector: its score's quantiles on clean images of the validation split."""
    scores = detector_scores(logits_of, images)
    return {f"{squeezing.THRESHOLD}{rate:g}": float(np.quantile(scores, 1 - rate)) for rate in squeezing.RATES}


class ThroughJpeg(nn.Module):
    """A network behind the detector's JPEG, for attacks that know of it: gradients pass that as if it changed nothing
    (BPDA, Athalye et al., "Obfuscated Gradients Give a False Sense of Security", 2018)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, photos: Tensor) -> Tensor:
        pixels = photos.detach().round().byte().cpu().numpy()
        squeezed = torch.from_numpy(squeezing.jpeg(pixels, squeezing.QUALITY)).to(photos)
        logits: Tensor = self.net(photos + (squeezed - photos).detach())
        return logits


def detector_metrics(net: nn.Module, split: Split) -> tuple[Metric, ...]:
    """How well the detector tells the first photos of each class from the same under PGD, also if that knows of it."""
    photos = first_of_each_class(split)
    inputs = torch.from_numpy(photos.images).float(), torch.from_numpy(photos.labels)
    metrics = []
    for name, attacked_net in ((DETECTOR_AUC, net), (f"{DETECTOR_AUC}_aware", ThroughJpeg(net))):
        attacked = pgd(attacked_net, *inputs, DETECTED_STEPS, torch.Generator().manual_seed(0)).round().byte().numpy()
        scores = [
            detector_scores(lambda images: logits_of(net, images), tested) for tested in (photos.images, attacked)
        ]
        auc = float(roc_auc_score(np.arange(2 * len(photos)) >= len(photos), np.concatenate(scores)))
        metrics.append(detector_metric(name, auc, len(photos)))
    return tuple(metrics)


def detector_metric(name: str, auc: float, photos: int) -> Metric:
    """The area under the ROC curve of so many photos and as many attacked ones."""
    return measures.area(name, [auc], photos, photos, target=TARGET_DETECTOR if name == DETECTOR_AUC else None)


def first_of_each_class(split: Split, count: int = OF_EACH_CLASS) -> Split:
    """The first photos of each class."""
    chosen = np.concatenate([np.flatnonzero(split.labels == label)[:count] for label in range(len(LABELS))])
    return Split(split.images[chosen], split.labels[chosen])


def labelled_files(split: Split) -> dict[str, list[bytes]]:
    """Photos as PNG files, by the name of their class."""
    files: dict[str, list[bytes]] = {}
    for image, label in zip(split.images, split.labels, strict=True):
        files.setdefault(LABELS[label], []).append(png(image))
    return files
