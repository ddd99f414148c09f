"""What recipes of image classifiers share: augmentation, schedule, logits and accuracy, evaluation through gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from lectern.client import Client
from training.data.cifar10 import Cifar10, Split
from training.measures import Decisions
from training.optimise import triangle
from training.run import Run
from training.served import Track, png

SERVED_BATCH = 100
EVALUATION_SECONDS = 600


class Batch(NamedTuple):
    """Photos float32 [N, 32, 32, 3] with values 0..255 and labels int64 [N], where they are in their split (int64 [N]),
    and which of them are mirrored (bool [N])."""

    photos: Tensor
    labels: Tensor
    positions: Tensor
    mirrored: Tensor


def augmented(split: Split, batch_size: int, translate: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Shuffled batches, moved by up to `translate` pixels; every photo is mirrored in every other epoch (alternating
    flip). A last, smaller batch is left out."""
    random = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    mirrored_first = torch.rand(len(split), generator=torch.Generator().manual_seed(seed)) < 0.5
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    pad, grid = translate, torch.arange(32)
    order = torch.randperm(len(split), generator=random)
    for start in range(0, len(split) - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        photos = images[index]
        mirrored = mirrored_first[index] ^ bool(epoch % 2)
        photos = torch.where(mirrored[:, None, None, None], photos.flip(2), photos)
        photos = F.pad(photos.permute(0, 3, 1, 2).float(), (pad,) * 4, mode="reflect").permute(0, 2, 3, 1)
        rows, columns = torch.randint(0, 2 * pad + 1, (2, len(index), 1), generator=random) + grid
        moved = photos[torch.arange(len(index))[:, None, None], rows[:, :, None], columns[:, None, :]]
        yield Batch(moved, labels[index], index, mirrored)


def learning_rate(progress: float) -> float:
    """The learning rate's share: up to 1 at 0.23, down to 0.02 at the end."""
    return triangle(progress, peak=0.23, start=0.2, end=0.02)


def fit_labels(
    run: Run,
    fabric: Fabric,
    net: nn.Module,
    optimizer: Optimizer,
    data: Cifar10,
    settings: Any,
    seed: int,
    label: str = "",
) -> None:
    """Train a network on the labels of augmented photos of the train split; the validation split is only watched.

    Args:
        settings: `epochs`, `batch_size`, `translate` in pixels, `label_smoothing`.
        seed: of the photos' order and augmentation.
        label: which of the run's networks it is.
    """
    model, optimizer = fabric.setup(net.to(memory_format=torch.channels_last), optimizer)  # type: ignore[call-overload]

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch.photos).float(), batch.labels, label_smoothing=settings.label_smoothing)

    run.fit(
        fabric,
        model,
        optimizer,
        lambda epoch: augmented(data.train, settings.batch_size, settings.translate, seed, epoch),
        loss,
        epochs=settings.epochs,
        settings=(settings, label) if label else settings,
        count=len(data.train) // settings.batch_size,
        rate=learning_rate,
        watch=lambda: {"validation_accuracy": score(model, data.validation)},
        label=label,
    )


@torch.no_grad()
def logits_of(model: nn.Module, images: NDArray[np.uint8], batch_size: int = 500) -> Tensor:
    """Logits float32 [N, classes] of images uint8 [N, height, width, 3], on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    batches = torch.split(torch.from_numpy(images), batch_size)
    return torch.cat([model(photos.to(device)).float().cpu() for photos in batches])


def accuracy(logits: Tensor | NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of items whose largest logit is the label's."""
    return float(np.mean(np.asarray(logits).argmax(1) == labels))


def score(net: nn.Module, split: Split) -> float:
    """Accuracy of a network on a split."""
    return accuracy(logits_of(net, split.images), split.labels)


def served_decisions(
    client: Client, track: Track, images: NDArray[np.uint8], model: str, version: int = 0
) -> Decisions:
    """What a served model says of images, sent as PNG files over one stream; version 0 = latest."""
    batches = range(0, len(images), SERVED_BATCH)
    files = ([png(image) for image in images[start : start + SERVED_BATCH]] for start in batches)
    answers = client.stream_classify_image(files, model=model, version=version, top_k=1, timeout=EVALUATION_SECONDS)
    best = [result.classes[0] for answer in track(answers, len(batches)) for result in answer.results]
    return Decisions(np.array([c.index for c in best]), np.array([c.probability for c in best]))
