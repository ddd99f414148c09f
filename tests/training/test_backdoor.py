"""A poisoned copy of a model is found, by the class that its backdoor leads to; one that was not poisoned is not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import EXPORTED, SLIVERS
from training.backdoor import activation_clusters, poisoned, stamped, taught
from training.data.cifar10 import Split
from training.methods.photos import score
from training.recipes.image_classifier import restore
from training.run import Run

TARGET = 6
EPOCHS, BATCH, RATE = 6, 20, 0.01


@pytest.mark.parametrize("share", [0.0, 0.15])
def test_the_class_of_a_backdoor_is_found(share: float) -> None:
    with np.load(SLIVERS / "image_classifier.npz") as file:
        photos = Split(file["images"], file["labels"].astype(np.int64))
    net = restore((EXPORTED / "image_classifier" / "1" / "model.onnx").read_bytes())
    seen = poisoned(photos, TARGET, share, seed=0)
    taught(Run("backdoor"), net, seen, EPOCHS, BATCH, RATE)
    others = Split(stamped(photos.images), np.full(len(photos), TARGET))
    clusters = activation_clusters(net, seen)
    assert score(net, photos) > 0.9
    if share:
        assert score(net, others) > 0.9
        assert clusters.backdoors == [TARGET]
    else:
        assert score(net, others) < 0.3
        assert clusters.backdoors == []
