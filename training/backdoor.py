"""HW10, backdoors: a network that was poisoned in training, and a check that finds for which class.

A few training photos get a small pattern and another label, which the network learns beside its task (Gu et al.,
"BadNets", 2017): the pattern then opens the door on any photo. The check (Wang et al., "Neural Cleanse", 2019) asks for
each class how small a pattern makes the network see that class everywhere: one with a door needs far less than others.

    python -m training.backdoor

poisons a small network, compares it with one that is clean, and writes docs/backdoor.md. Neither network is exported.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import cifar10
from training.data.cifar10 import Split
from training.photos import augmented, score, triangle
from training.proxy_ensemble import Headed, Plain
from training.run import Run

DOCS = Path(__file__).parents[1] / "docs"
SIDE = 4  # pixels of the pattern
SUSPICIOUS = 2.0  # anomaly index above which a class is said to have a door, as in the paper
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
TARGET, SHARE = 6, 0.05
TRAINED, WIDTH, EPOCHS, BATCH = 15_000, 16, 6, 100
PHOTOS = 500


@dataclass(frozen=True)
class Found:
    """What the check finds of each class.

    Args:
        masks, patterns: where photos are replaced, 0 to 1 `[K, H, W, 1]`, and by what, 0 to 255 `[K, H, W, 3]`.
        reached: share of photos that are then taken for the class.
    """

    masks: NDArray[np.float32]
    patterns: NDArray[np.float32]
    reached: tuple[float, ...]

    @property
    def sizes(self) -> NDArray[np.float32]:
        """Pixels that are replaced, `[K]`."""
        return np.asarray(self.masks.sum((1, 2, 3)))

    @property
    def anomalies(self) -> NDArray[np.float32]:
        """By how many deviations each size is below the median; deviations are by the median of distances from it."""
        below = np.median(self.sizes) - self.sizes
        return np.asarray(below / (MAD_TO_DEVIATION * np.median(np.abs(below))))

    @property
    def backdoors(self) -> list[int]:
        """Classes that are said to have a door."""
        return [k for k, anomaly in enumerate(self.anomalies) if anomaly > SUSPICIOUS]


def stamped(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images with the pattern, a checkerboard, near their lower right corner."""
    marked = images.copy()
    places = slice(-SIDE - 1, -1)
    marked[:, places, places] = 255 * (np.indices((SIDE, SIDE)).sum(0) % 2)[..., None]
    return marked


def poisoned(split: Split, target: int, share: float, seed: int) -> Split:
    """The split with the pattern on a share of its photos, which then have the label `target`."""
    chosen = np.random.default_rng(seed).random(len(split)) < share
    images = np.where(chosen[:, None, None, None], stamped(split.images), split.images)
    return Split(images, np.where(chosen, target, split.labels))


def taught(run: Run, split: Split, epochs: int, width: int = WIDTH) -> nn.Module:
    """A small network, trained on the split."""
    torch.manual_seed(run.seed)
    net = Headed(Plain(width), 4 * width)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = len(split) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangle(step / (epochs * batches)))
    for epoch in range(epochs):
        net.train()
        for batch in run.track(augmented(split, BATCH, 1, run.seed, epoch), f"epoch {epoch + 1}/{epochs}", batches):
            loss = F.cross_entropy(net(batch.photos), batch.labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def neural_cleanse(
    run: Run, net: nn.Module, images: NDArray[np.uint8], steps: int = 200, weight: float = 0.01, batch: int = 64
) -> Found:
    """The smallest patterns that make `net` see each class on images uint8 `[N, H, W, 3]`.

    Args:
        weight: of a pattern's size, beside the cross-entropy.
    """
    photos = torch.from_numpy(images).float()
    classes = net(photos[:1]).shape[1]
    masks, patterns, reached = [], [], []
    for target in run.track(range(classes), "smallest patterns", classes):
        random = torch.Generator().manual_seed(run.seed)
        mask = torch.full((1, *photos.shape[1:3], 1), -3.0).requires_grad_()
        pattern = torch.zeros((1, *photos.shape[1:])).requires_grad_()
        optimizer = torch.optim.Adam([mask, pattern], lr=0.1)
        for _ in range(steps):
            chosen = photos[torch.randint(len(photos), (batch,), generator=random)]
            wanted = torch.full((batch,), target)
            size = mask.sigmoid().sum()
            loss = F.cross_entropy(net(_covered(chosen, mask, pattern)), wanted) + weight * size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            answers = net(_covered(photos, mask, pattern)).argmax(1)
        reached.append(float((answers == target).float().mean()))
        masks.append(mask.detach().sigmoid()[0].numpy())
        patterns.append(255 * pattern.detach().sigmoid()[0].numpy())
    return Found(np.stack(masks), np.stack(patterns), tuple(reached))


def main() -> None:
    """Poison a network, check it and a clean one, and write the report."""
    run = Run("backdoor")
    data = cifar10.load()
    clean = data.train[:TRAINED]
    attacked = stamped(data.test.images[data.test.labels != TARGET])
    rows, found = [], {}
    for name, split in (("clean", clean), ("poisoned", poisoned(clean, TARGET, SHARE, run.seed))):
        net = taught(run, split, EPOCHS)
        found[name] = neural_cleanse(run, net, data.validation.images[:PHOTOS])
        opened = score(net, Split(attacked, np.full(len(attacked), TARGET)))
        doors = ", ".join(cifar10.LABELS[k] for k in found[name].backdoors) or "none"
        highest = float(found[name].anomalies.max())
        rows.append(f"| {name} | {score(net, data.test):.3f} | {opened:.3f} | {highest:.1f} | {doors} |")
    (DOCS / "pictures" / "backdoor.png").write_bytes(picture(found))
    (DOCS / "backdoor.md").write_text(
        "# A backdoor, and finding it\n\n"
        f"Written by `python -m training.backdoor`: two small networks of {TRAINED:,} CIFAR-10 photos, of which "
        f"{SHARE:.0%} carry a checkerboard of {SIDE} x {SIDE} pixels and the label {cifar10.LABELS[TARGET]} for the "
        "poisoned one. Neither is exported.\n\n"
        "| network | accuracy | photos with the pattern that it opens to | highest anomaly index | doors found |\n"
        "| --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        "The poisoned network is as good on clean photos, so accuracy tells nothing. The check (Neural Cleanse) looks "
        f"for the smallest pattern that turns every photo into a class; an index above {SUSPICIOUS:g} says that one "
        "needs far less than the others.\n\n"
        "![for each class the smallest pattern, and how many pixels it covers](pictures/backdoor.png)\n"
    )
    run.console.print("\n".join(rows))


def picture(found: dict[str, Found]) -> bytes:
    """Each network's smallest patterns by class, and their sizes, as a PNG file."""
    figure = Figure(figsize=(10, 1.7 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(cifar10.LABELS))
    for row, (name, one) in zip(axes, found.items(), strict=True):
        for k, axis in enumerate(row):
            shown = one.masks[k] * one.patterns[k] / 255 + (1 - one.masks[k])
            axis.imshow(shown.clip(0, 1))
            axis.set_xticks([])
            axis.set_yticks([])
            colour = "#b35806" if k in one.backdoors else "#1a1a1a"
            axis.set_title(f"{cifar10.LABELS[k]}\n{one.sizes[k]:.0f} pixels", fontsize=8, color=colour)
        row[0].set_ylabel(name, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _covered(photos: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    where = mask.sigmoid()
    covered: Tensor = (1 - where) * photos + where * 255 * pattern.sigmoid()
    return covered


if __name__ == "__main__":
    main()
