"""Attacks beside torchattacks', which differentiates the same network with torch: relative error 1e-3 on 50 photos.

A few more are asked about: where two values in a window of max pooling differ by rounding alone, the network has no one
gradient, and the rounding of each library takes its own.

torchattacks is fetched without what it asks for beside torch: an old `requests`, which other packages cannot live with,
and `torchvision`, neither of which these attacks use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lectern
from tests.conftest import EXPORTED, encode, serving
from tests.waiting import WAIT
from training.data.fetch import PyPI
from training.recipes.image_classifier import ImageClassifier, restore

PHOTOS, ALIKE = 60, 50
EPSILON, STEP, STEPS = 8 / 255, 1.9 / 255, 5
TORCHATTACKS = PyPI(
    name="torchattacks",
    version="3.5.1",
    sha256="10c1b05f3a0b52869a91dfa9f9d5adf613750276a15f41fdbd361127cc6bd703",
    licence="MIT",
)


class ChannelsFirst(nn.Module):
    """The network as torchattacks calls it: images [N, 3, 32, 32] of 0 to 1."""

    def __init__(self, net: ImageClassifier) -> None:
        super().__init__()
        self.net = net.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(255 * images.permute(0, 2, 3, 1))
        return logits


@pytest.fixture(scope="module")
def torchattacks() -> Any:
    sys.path.insert(0, str(TORCHATTACKS.fetch()))
    import torchattacks

    return torchattacks


@pytest.fixture(scope="module")
def net() -> ChannelsFirst:
    return ChannelsFirst(restore((EXPORTED / "image_classifier" / "1" / "model.onnx").read_bytes()))


@pytest.fixture(scope="module")
def inputs(photos: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photos[:PHOTOS]).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def classes(net: ChannelsFirst, inputs: torch.Tensor) -> torch.Tensor:
    return net(inputs).argmax(1)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lectern.Client]:
    with (
        serving(tmp_path_factory.mktemp("parity"), "defend", LECTERN_ALLOW_ATTACKS="true") as server,
        lectern.Client(server.target, timeout=WAIT) as client,
    ):
        yield client


def same(client: lectern.Client, photos: np.ndarray, expected: torch.Tensor, method: str, **parameters: Any) -> None:
    files = [encode(photo) for photo in photos[:PHOTOS]]
    results = client.attack(files, method, epsilon=EPSILON, include_values=True, **parameters).results
    ours = np.stack([np.frombuffer(result.values, "<f4") for result in results])
    theirs = 255 * expected.detach().permute(0, 2, 3, 1).reshape(PHOTOS, -1).numpy()
    errors = np.sort(np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1))
    assert errors[:ALIKE].max() <= 1e-3


def test_fgsm(client: lectern.Client, photos: np.ndarray, torchattacks: Any, net, inputs, classes) -> None:
    same(client, photos, torchattacks.FGSM(net, eps=EPSILON)(inputs, classes), "fgsm")


def test_i_fgsm(client: lectern.Client, photos: np.ndarray, torchattacks: Any, net, inputs, classes) -> None:
    expected = torchattacks.BIM(net, eps=EPSILON, alpha=STEP, steps=STEPS)(inputs, classes)
    same(client, photos, expected, "i_fgsm", steps=STEPS, step_size=STEP)


def test_mi_fgsm(client: lectern.Client, photos: np.ndarray, torchattacks: Any, net, inputs, classes) -> None:
    expected = torchattacks.MIFGSM(net, eps=EPSILON, alpha=STEP, steps=STEPS, decay=1.0)(inputs, classes)
    same(client, photos, expected, "mi_fgsm", steps=STEPS, step_size=STEP, decay=1)


def test_pgd_from_the_same_start(
    client: lectern.Client, photos: np.ndarray, torchattacks: Any, net, inputs, classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [np.random.Generator(np.random.PCG64(7 + i)) for i in range(PHOTOS)]
    drawn = np.stack([random.random((32, 32, 3), np.float32) for random in seeds])
    start = torch.from_numpy(EPSILON * (2 * drawn - 1)).permute(0, 3, 1, 2).float()
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.copy_(start))
    expected = torchattacks.PGD(net, eps=EPSILON, alpha=STEP, steps=STEPS)(inputs, classes)
    same(client, photos, expected, "pgd", steps=STEPS, step_size=STEP, seed=7)


def test_a_targeted_attack(client: lectern.Client, photos: np.ndarray, torchattacks: Any, net, inputs) -> None:
    attack = torchattacks.BIM(net, eps=EPSILON, alpha=STEP, steps=STEPS)
    attack.set_mode_targeted_by_label(quiet=True)
    expected = attack(inputs, torch.full((PHOTOS,), 8))
    same(client, photos, expected, "i_fgsm", steps=STEPS, step_size=STEP, target="ship")
