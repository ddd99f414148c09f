"""Explanations beside captum's, which differentiates the same network with torch: relative error 1e-3 on 50 photos.

A few more are asked about. Where two values in a window of max pooling differ by rounding alone, the network has no one
gradient, and the rounding of each library takes its own; such a photo may differ more, by no more than 2 %.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel, Occlusion, Saliency

import lectern
from artifacts.noise import noise
from lectern.v1 import explain_pb2 as pb
from tests.conftest import EXPORTED, Server, encode
from tests.waiting import WAIT
from training.recipes.image_classifier import ImageClassifier, restore

PHOTOS, ALIKE = 54, 50


@pytest.fixture(scope="module")
def net() -> ImageClassifier:
    return restore((EXPORTED / "image_classifier" / "1" / "model.onnx").read_bytes())


@pytest.fixture(scope="module")
def inputs(photos: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photos[:PHOTOS]).float()


@pytest.fixture(scope="module")
def targets(net: ImageClassifier, inputs: torch.Tensor) -> torch.Tensor:
    return net(inputs).argmax(1)


@pytest.fixture
def client(server: Server) -> Iterator[lectern.Client]:
    with lectern.Client(server.target, timeout=WAIT) as client:
        yield client


def attributions(client: lectern.Client, photos: np.ndarray, method: str, **parameters: object) -> np.ndarray:
    return np.stack([values(client.explain(encode(p), method, seed=i, **parameters)) for i, p in enumerate(photos)])


def values(response: pb.ExplainResponse) -> np.ndarray:
    return np.frombuffer(response.attribution.values, "<f4").reshape(tuple(response.attribution.shape))


def same(ours: np.ndarray, captums: torch.Tensor) -> None:
    theirs = captums.detach().numpy().reshape(PHOTOS, -1)
    sizes = np.linalg.norm(theirs, axis=1).clip(min=1e-9)  # a map of Grad-CAM may be 0 everywhere
    errors = np.sort(np.linalg.norm(ours.reshape(PHOTOS, -1) - theirs, axis=1) / sizes)
    assert errors[:ALIKE].max() <= 1e-3
    assert errors.max() <= 0.02


def test_saliency(client: lectern.Client, photos: np.ndarray, net: ImageClassifier, inputs, targets) -> None:
    same(attributions(client, photos[:PHOTOS], "saliency"), Saliency(net).attribute(inputs, target=targets))


def test_integrated_gradients(
    client: lectern.Client, photos: np.ndarray, net: ImageClassifier, inputs, targets
) -> None:
    steps = 20
    expected = IntegratedGradients(net).attribute(
        inputs, target=targets, n_steps=steps, method="gausslegendre", internal_batch_size=100
    )
    same(attributions(client, photos[:PHOTOS], "integrated_gradients", steps=steps), expected)


def test_smooth_grad_with_the_same_noise(
    client: lectern.Client, photos: np.ndarray, net: ImageClassifier, inputs, targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, size = 10, 0.1
    expected = []
    for seed, (photo, target) in enumerate(zip(inputs, targets, strict=True)):
        drawn = 255 * size * torch.from_numpy(noise(seed, samples * photo.numel()).reshape(samples, *photo.shape))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "normal", lambda mean, spread, drawn=drawn: drawn)
            tunnel = NoiseTunnel(Saliency(net))
            expected.append(tunnel.attribute(photo[None], nt_samples=samples, stdevs=1.0, target=int(target)))
    same(attributions(client, photos[:PHOTOS], "smooth_grad", samples=samples, noise=size), torch.cat(expected))


@pytest.mark.parametrize("layer", ["blocks.1", "blocks.2"])
def test_grad_cam(
    client: lectern.Client, photos: np.ndarray, net: ImageClassifier, inputs, targets, layer: str
) -> None:
    cam = LayerGradCam(net, net.get_submodule(layer)).attribute(inputs, target=targets, relu_attributions=True)
    expected = LayerAttribution.interpolate(cam, (32, 32), interpolate_mode="bilinear")
    same(attributions(client, photos[:PHOTOS], "grad_cam", layer=layer), expected)


def test_occlusion(client: lectern.Client, photos: np.ndarray, net: ImageClassifier, inputs, targets) -> None:
    window, stride = 12, 8
    with torch.no_grad():
        expected = Occlusion(net).attribute(
            inputs, (window, window, 3), (stride, stride, 3), baselines=0, target=targets, perturbations_per_eval=4
        )
    ours = attributions(client, photos[:PHOTOS], "occlusion", window=window, stride=stride, baseline="black")
    same(ours.repeat(3, axis=3), expected)
