"""What the generative recipes measure and learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import SLIVERS
from training.data.faces import face
from training.data.fetch import FetchError
from training.data.printed_digits import place
from training.methods import fid, gans


@pytest.mark.unit
def test_the_frechet_distance_of_normal_distributions_is_the_formulas() -> None:
    samples = np.random.default_rng(0).normal(size=(500, 3))
    # Whitened, so that mean and covariance are known exactly.
    samples -= samples.mean(0)
    samples = samples @ np.linalg.inv(np.linalg.cholesky(np.cov(samples, rowvar=False))).T
    a, b = samples * [1, 2, 3], samples * [2, 2, 1] + [1, 0, -2]
    assert fid.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert fid.frechet_distance(a, b) == pytest.approx((1 + 4) + (1 + 0 + 4))


@pytest.mark.unit
def test_distances_grow_with_damage() -> None:
    with np.load(SLIVERS / "image_classifier_test.npz") as file:
        photos = file["images"]
    reference = fid.features(photos[:100])
    noisy = [
        (photos[100:] + np.random.default_rng(0).normal(0, deviation, photos[100:].shape)).clip(0, 255)
        for deviation in (0, 5, 15)
    ]
    distances = [fid.fid(images.astype(np.uint8), reference) for images in noisy]
    assert distances == sorted(distances)
    assert reference.shape == (100, 256)
    assert fid.features(np.zeros((2, 64, 48, 3), np.uint8)).shape == (2, 256)


@pytest.mark.unit
def test_another_feature_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = tmp_path / "model.onnx"
    altered.write_bytes(fid.FEATURE_NET.read_bytes() + b"\0")
    monkeypatch.setattr(fid, "FEATURE_NET", altered)
    with pytest.raises(FetchError, match="restore it from git"):
        fid.features(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("man-artist-medium-dark-skin-tone", "man-artist"),
        ("man-medium-light-skin-tone-blond-hair", "man-blond-hair"),
        ("woman-judge-medium-light", "woman-judge"),
        ("weary-face-2", "weary-face"),
        ("grinning-face-with-sweat", "grinning-face-with-sweat"),
        ("grinning-cat-face", None),
        ("last-quarter-moon-face", None),
        ("man-running-medium-skin-tone", None),
        ("baby-bottle", None),
        ("clock-face-3-oclock", None),
    ],
)
def test_faces_are_told_by_name_and_tones_are_one_drawing(name: str, base: str | None) -> None:
    assert face(name) == base


@pytest.mark.unit
def test_a_printed_digit_lies_with_its_centre_of_mass_in_the_middle() -> None:
    ink = np.zeros((60, 30), np.uint8)
    ink[:40, 10:] = 255
    placed = place(Image.fromarray(ink).crop((10, 0, 30, 40)), 20).astype(float)
    assert placed.shape == (28, 28)
    centre = [(placed.sum(axis) @ np.arange(28)) / placed.sum() for axis in (0, 1)]
    assert centre == pytest.approx([13.5, 13.5], abs=0.5)
    assert (placed.sum(1) > 0).sum() == 20


@pytest.mark.unit
def test_augmentation_differs_between_images_and_lets_gradients_through() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 32, 32).repeat(6, 1, 1, 1).requires_grad_()
    augmented = gans.augment(images)
    assert augmented.shape == images.shape
    assert len({tuple(image.flatten().tolist()) for image in augmented.detach()}) == 6
    augmented.sum().backward()
    assert images.grad is not None
    assert all(gradient.abs().sum() > 0 for gradient in images.grad)


@pytest.mark.unit
def test_folding_the_norms_changes_nothing() -> None:
    torch.manual_seed(0)
    generator = gans.Generator((16, 12, 8), channels=1, classes=3)
    noise, labels = torch.randn(9, gans.LATENT), torch.arange(9)[:, None] % 3
    generator(noise, labels)  # gives the norms statistics
    with torch.no_grad():
        expected = generator.eval()(noise, labels)
        images = generator.fold_norms()(noise, labels)
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in generator.modules())
