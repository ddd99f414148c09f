"""Linear probes: what a linear classifier can tell from each layer of a network (Alain & Bengio, "Understanding
intermediate layers using linear classifier probes", 2016)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Probe
from training.data.cifar10 import Split

TRAIN, TEST = 8000, 2000
CELLS = 2  # maps are averaged over a grid of so many cells a side, so that layers differ in what they know, not in size
BATCH = 500
BRIGHTNESS = 4

Features = dict[str, NDArray[np.float64]]  # by layer, [N, F]


@torch.no_grad()
def probes(net: nn.Module, layers: Sequence[str], train: Split, test: Split) -> tuple[Probe, ...]:
    """How well a linear classifier tells two properties of a photo from each layer: its class, and which quarter of all
    photos by brightness it belongs to."""
    edges = np.quantile(_brightness(train), np.linspace(0, 1, BRIGHTNESS + 1)[1:-1])
    properties: dict[str, Callable[[Split], NDArray[np.int64]]] = {
        "class": lambda split: split.labels,
        "brightness, in quarters": lambda split: np.searchsorted(edges, _brightness(split)),
    }
    known, unknown = (_features(net, layers, split, n) for split, n in ((train, TRAIN), (test, TEST)))
    return fitted(known, unknown, {name: (of(train)[:TRAIN], of(test)[:TEST]) for name, of in properties.items()})


def fitted(
    known: Features, unknown: Features, properties: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> tuple[Probe, ...]:
    """How well a linear classifier that is fitted to `known` features tells properties from `unknown` ones; of each
    property its values [N] for both."""
    measured = []
    for name, (answers, truth) in properties.items():
        chance = float(np.unique(truth, return_counts=True)[1].max() / len(truth))
        for layer in known:
            classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 4, 5)))
            accuracy = float(classifier.fit(known[layer], answers).score(unknown[layer], truth))
            measured.append(Probe(layer=layer, property=name, accuracy=accuracy, chance=chance, n=len(truth)))
    return tuple(measured)


def _features(net: nn.Module, layers: Sequence[str], split: Split, count: int) -> Features:
    """By layer, and for the photo itself."""
    chunks: dict[str, list[Tensor]] = {"input": [], **{name: [] for name in layers}}

    def keep(name: str, values: Tensor) -> None:
        chunks[name].append(F.adaptive_avg_pool2d(values, CELLS).flatten(1))

    hooks = [
        net.get_submodule(name).register_forward_hook(lambda *call, name=name: keep(name, call[2])) for name in layers
    ]
    for photos in torch.split(torch.from_numpy(split.images[:count]), BATCH):
        keep("input", photos.permute(0, 3, 1, 2).float())
        net(photos)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts).double().numpy() for name, parts in chunks.items()}


def _brightness(split: Split) -> NDArray[np.float64]:
    return np.asarray(split.images.reshape(len(split), -1).mean(1), np.float64)
