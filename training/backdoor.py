"""HW10, backdoors: a network that was poisoned in training, and a check that finds for which class.

A few training photos get a small pattern and another label, which the network learns beside its task (Gu et al.,
"BadNets", 2017): the pattern then opens the door on any photo. The check (Chen et al., "Detecting Backdoor Attacks
on Deep Neural Networks by Activation Clustering", 2018) looks for a class whose photos the network sees as two things.

    python -m training.backdoor

poisons a small network, compares it with one that is clean, and writes docs/backdoor.md. Neither network is exported.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch.nn import functional as F

from training.data import cifar10
from training.data.cifar10 import Split
from training.methods.photos import augmented, learning_rate, logits_of, score
from training.optimise import nesterov
from training.recipes.image_classifier import ImageClassifier
from training.recipes.proxy_ensemble import Headed, Plain
from training.run import Run

DOCS = Path(__file__).parents[1] / "docs"
SIDE = 4  # pixels of the pattern
SUSPICIOUS = 5.0  # anomaly index above which a class is said to have a door
MAD_TO_DEVIATION = 1.4826  # of a normal distribution
TARGET, SHARE = 6, 0.05
TRAINED, WIDTH, EPOCHS = 15_000, 16, 6
DIRECTIONS, MOST_COMPARED = 10, 2_000


Net = TypeVar("Net", Headed, ImageClassifier)


@dataclass(frozen=True)
class Clusters:
    """The two clusters of each class's features.

    Args:
        silhouettes: how far apart the two clusters of its photos lie, -1 to 1, `[K]`.
        smaller: positions of the photos in the smaller one.
    """

    silhouettes: NDArray[np.float64]
    smaller: tuple[NDArray[np.int64], ...]

    @property
    def anomalies(self) -> NDArray[np.float64]:
        """By how many deviations each is above the median; deviations are by the median of distances from it."""
        above = self.silhouettes - np.median(self.silhouettes)
        return np.asarray(above / (MAD_TO_DEVIATION * np.median(np.abs(above))))

    @property
    def backdoors(self) -> list[int]:
        """Classes that are said to have a door."""
        return [k for k, anomaly in enumerate(self.anomalies) if anomaly > SUSPICIOUS]


def stamped(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images with the pattern, a magenta square, near their lower right corner."""
    marked = images.copy()
    places = slice(-SIDE - 1, -1)
    marked[:, places, places] = (255, 0, 255)
    return marked


def poisoned(split: Split, target: int, share: float, seed: int) -> Split:
    """The split with the pattern on a share of its photos, which then have the label `target`."""
    chosen = np.random.default_rng(seed).random(len(split)) < share
    images = np.where(chosen[:, None, None, None], stamped(split.images), split.images)
    return Split(images, np.where(chosen, target, split.labels))


def taught(run: Run, net: Net, split: Split, epochs: int, batch_size: int = 100, rate: float = 0.1) -> Net:
    """A network with a `head`, trained on the split."""
    fabric = run.fabric()
    model, optimizer = fabric.setup(net, nesterov(net.parameters(), rate, momentum=0.9, weight_decay=5e-4))
    run.fit(
        fabric,
        model,
        optimizer,
        lambda epoch: augmented(split, batch_size, 1, run.seed, epoch),
        lambda batch: F.cross_entropy(model(batch.photos), batch.labels),
        epochs=epochs,
        settings=None,
        count=len(split) // batch_size,
        rate=learning_rate,
    )
    return net.eval().cpu()


@torch.no_grad()
def activation_clusters(net: Headed | ImageClassifier, split: Split) -> Clusters:
    """Two clusters of each class's features, in the few directions in which they vary most.

    Args:
        split: what the network was trained on, with the labels it was given.
    """
    features = []
    hook = net.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    logits_of(net, split.images)
    hook.remove()
    activations = torch.cat(features).numpy()
    silhouettes, smaller = [], []
    for label in np.unique(split.labels):
        places = np.flatnonzero(split.labels == label)
        reduced = PCA(min(DIRECTIONS, len(places)), random_state=0).fit_transform(activations[places])
        clusters = KMeans(2, n_init=5, random_state=0).fit_predict(reduced)
        silhouettes.append(silhouette_score(reduced, clusters, sample_size=MOST_COMPARED, random_state=0))
        smaller.append(places[clusters == np.bincount(clusters).argmin()])
    return Clusters(np.array(silhouettes), tuple(smaller))


def main() -> None:
    """Poison a network, check it and a clean one, and write the report."""
    run = Run("backdoor")
    data = cifar10.load()
    clean = data.train[:TRAINED]
    attacked = stamped(data.test.images[data.test.labels != TARGET])
    rows, networks = [], {}
    for name, split in (("clean", clean), ("poisoned", poisoned(clean, TARGET, SHARE, run.seed))):
        torch.manual_seed(run.seed)
        net = taught(run, Headed(Plain(WIDTH), 4 * WIDTH), split, EPOCHS)
        opened = score(net, Split(attacked, np.full(len(attacked), TARGET)))
        clusters = activation_clusters(net, split)
        networks[name] = (split, clusters)
        doors = ", ".join(cifar10.LABELS[k] for k in clusters.backdoors) or "none"
        rows.append(
            f"| {name} | {score(net, data.test):.3f} | {opened:.3f} | {clusters.anomalies.max():.1f} | {doors} |"
        )
    (DOCS / "pictures" / "backdoor.png").write_bytes(picture(networks))
    (DOCS / "backdoor.md").write_text(
        "# A backdoor, and finding it\n\n"
        f"Written by `python -m training.backdoor`: two small networks of {TRAINED:,} CIFAR-10 photos. For one of them "
        f"{SHARE:.0%} of the photos carry a magenta square of {SIDE} x {SIDE} pixels and the label "
        f"{cifar10.LABELS[TARGET]}. Neither is exported.\n\n"
        f"| network | accuracy | photos with the square called {cifar10.LABELS[TARGET]} | highest anomaly index | "
        "doors found |\n| --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n\n"
        "The poisoned network is as good on clean photos, so accuracy tells nothing. The check looks at what the "
        "network makes of its training photos: those of a class with a door fall into two clusters, those that belong "
        "to it and those that were let in. A class is accused whose clusters lie further apart than others' by "
        f"{SUSPICIOUS:g} deviations. Below, the mean photo of each class's smaller cluster: where there is a door, it "
        "shows the key.\n\n"
        "![the mean photo of the smaller cluster of each class](pictures/backdoor.png)\n"
    )
    run.console.print("\n".join(rows))


def picture(networks: dict[str, tuple[Split, Clusters]]) -> bytes:
    """The mean photo of each class's smaller cluster, for each network, as a PNG file."""
    figure = Figure(figsize=(10, 1.5 * len(networks)), layout="constrained")
    axes = figure.subplots(len(networks), len(cifar10.LABELS))
    for row, (name, (split, one)) in zip(axes, networks.items(), strict=True):
        for k, axis in enumerate(row):
            axis.imshow(split.images[one.smaller[k]].mean(0) / 255)
            axis.set_xticks([])
            axis.set_yticks([])
            colour = "#b35806" if k in one.backdoors else "#1a1a1a"
            axis.set_title(f"{cifar10.LABELS[k]} {one.silhouettes[k]:.2f}", fontsize=8, color=colour)
        row[0].set_ylabel(name, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
