"""A poisoned network is found, by the class that its backdoor leads to; a clean one is not accused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import ROOT
from training.backdoor import activation_clusters, poisoned, stamped, taught
from training.data.cifar10 import Split
from training.photos import score
from training.run import Run

TARGET = 7
EPOCHS = 12


@pytest.fixture(scope="module")
def digits() -> Split:
    """Handwritten digits in the size and colours of photos."""
    with np.load(ROOT / "tests" / "data" / "lifelong_classifier.npz") as file:
        images, labels = file["images"].reshape(-1, 28, 28), file["labels"].astype(np.int64)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return Split(np.repeat(padded[..., None], 3, axis=3), labels)


@pytest.mark.parametrize("share", [0.0, 0.15])
def test_the_class_of_a_backdoor_is_found(digits: Split, share: float) -> None:
    run = Run("backdoor")
    net = taught(run, seen := poisoned(digits, TARGET, share, seed=0), EPOCHS, width=8)
    others = Split(stamped(digits.images), np.full(len(digits), TARGET))
    found = activation_clusters(net, seen)
    if share:
        assert score(net, others) > 0.9
        assert found.backdoors == [TARGET]
    else:
        assert score(net, others) < 0.5
        assert found.backdoors == []
