"""HW6: a generator of emoji faces and people, 64 x 64 pixels.

A residual pair with spectral norm, hinge loss, augmentation of both sides and averaged weights (`gans`), beside a plain
DCGAN (Radford et al., "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
2016) that saw the same drawings as often. Both are judged by the Fréchet distance of `fid` to drawings held out, and by
how near their images come to drawings they learned from.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.card import Baseline, Card, Limits, Metric, NoisePreprocessing
from lectern.client import Client
from training import measures
from training.data import faces, iconify
from training.data.faces import Faces
from training.export.onnx import round_to_bytes
from training.measures import Evaluation
from training.methods import gans
from training.methods.fid import features, fid, frechet_distance
from training.methods.gans import LATENT, Discriminator, Generator, Images, Settings
from training.run import Run, device_name
from training.served import Track
from training.trained import IMAGE, Figure, Graph, Trained

NEEDS = {"features": "image_classifier"}
MEMORY = 4
SHIPPED = True
FULL = Settings(epochs=30, batch_size=16, widths=(256, 128, 64, 48, 24), discriminator_width=24)
FAST = Settings(epochs=2, batch_size=8, widths=(16, 16, 16, 16, 16), discriminator_width=8)
TARGET_SHARE = 0.5  # of the DCGAN's distance
SAMPLES = 2_000
FAST_SAMPLES = 32
SHOWN = 16
DESCRIPTION = (
    "Draws emoji faces and people, 64 x 64 pixels, out of noise. `fid` is the Fréchet distance of the images of seeds "
    "0 to {last} from the {test} held-out drawings, on 256 features of image_classifier version 1; it does not compare "
    "with distances on other features. `nearest_training_rms` is the median difference, root mean square in grey "
    "levels, of an image from the nearest drawing learned from; `copies` is the share of images nearer to one than 99 "
    "in 100 held-out drawings are."
)
LIMITS = Limits(
    intended="Small faces in the style of emoji, for play.",
    failures=(
        "A person finds about 9 of 48 faces of version 1 pleasant.",
        "Truncation fails: at 0.3, 97 % of version 1's pictures are nearly empty.",
        "The Fréchet distance is on image_classifier's features, which are of photos: it compares generators of "
        "this project and nothing else.",
    ),
)


class PlainGenerator(nn.Module):
    """DCGAN's generator: noise float32 [N, LATENT] -> images [N, 3, 64, 64] in -1..1."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(LATENT, widths[0], 4, bias=False)]
        for a, b in zip(widths, (*widths[1:], 3), strict=True):
            layers += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=b == 3)]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(_start)

    def forward(self, noise: Tensor) -> Tensor:
        images: Tensor = self.layers(noise[:, :, None, None])
        return images


class PlainDiscriminator(nn.Module):
    """DCGAN's discriminator: images [N, 3, 64, 64] -> logits of being real [N]."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4))
        self.apply(_start)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)[:, 0, 0, 0]
        return logits


def train(run: Run) -> Trained:
    """Train both generators, and measure them on the same seeds against the same held-out drawings."""
    settings = FAST if run.fast else FULL
    data = faces.load_sliver(run.sliver.with_suffix(".npz")) if run.fast else faces.load()
    seeds = range(FAST_SAMPLES if run.fast else SAMPLES)
    generator, device = fit(run, settings, data)
    plain = fit_plain(run, settings, data)
    images, plain_images = gans.sample(generator, seeds), gans.sample(plain, seeds)
    held_out = features(data.test)
    plain_fid = fid(plain_images, held_out)
    few = data.train[np.random.default_rng(0).permutation(len(data.train))[: len(seeds)]]
    (index, nearest), (_, nearest_test) = (nearest_rms(x, data.train) for x in (images, data.test))
    return Trained(
        title="Emoji face generator",
        lecture="HW6",
        capability="generate",
        task="image generation",
        description=DESCRIPTION.format(last=seeds[-1], test=len(data.test)),
        graphs={
            "forward": Graph(
                generator, {"noise": torch.randn(8, LATENT)}, ("images",), max_batch_size=64, tolerance=IMAGE
            )
        },
        preprocessing=NoisePreprocessing(size=LATENT),
        metrics=(
            _fid(fid(images, held_out), len(seeds), TARGET_SHARE * plain_fid),
            *novelty(nearest, nearest_test),
        ),
        limits=LIMITS,
        baselines=(
            Baseline(name="plain DCGAN", metric="fid", value=plain_fid),
            Baseline(name="drawings learned from", metric="fid", value=frechet_distance(features(few), held_out)),
            Baseline(name="held-out drawings", metric="nearest_training_rms", value=float(np.median(nearest_test))),
        ),
        figures=(
            Figure(
                "Images of the first seeds, and below each the nearest drawing learned from",
                "nearest.png",
                gans.rows_to_png(*(x for i in (0, SHOWN) for x in (images[i:][:SHOWN], data.train[index[i:][:SHOWN]]))),
            ),
        ),
        data=(iconify.SOURCE.entry_of(data),),
        device=device,
        parameters=sum(p.numel() for p in generator.parameters()),
    )


def fit(run: Run, settings: Settings, data: Faces) -> tuple[Images, str]:
    """The generator as it is served, with weights of 8 bits, and the device's name."""
    fabric = run.fabric("bf16-mixed")
    pair = (
        Generator(settings.widths, channels=3),
        Discriminator(settings.discriminator_width, len(settings.widths) - 1, channels=3),
    )
    served = gans.served(gans.fit(run, fabric, *pair, settings, data.train))
    return round_to_bytes(served), device_name(fabric)


def fit_plain(run: Run, settings: Settings, data: Faces) -> Images:
    """DCGAN as published, for as many steps: cross-entropy, no augmentation, no averaging."""
    fabric = run.fabric("bf16-mixed")
    width = settings.discriminator_width
    widths = (width, 2 * width, 4 * width, 8 * width)
    plain = replace(
        settings, betas=(0.5, 0.999), average_decay=0, augmented=False, loss="logistic", widths=widths[::-1]
    )
    pair = PlainGenerator(plain.widths), PlainDiscriminator(widths)
    return Images(gans.fit(run, fabric, *pair, plain, data.train, description="DCGAN baseline"))


def evaluate(client: Client, track: Track) -> Evaluation:
    """The Fréchet distance of served images, of the same seeds, from the held-out drawings, and how near they come to
    those learned from."""
    images = gans.served_images(client, "face_generator", SAMPLES, track)
    card = Card.model_validate(MessageToDict(client.get_model("face_generator").model.versions[0].card))
    target = next(m.target for m in card.metrics if m.name == "fid")
    data = faces.load()
    (_, nearest), (_, nearest_test) = (nearest_rms(x, data.train) for x in (images, data.test))
    return Evaluation((_fid(fid(images, features(data.test)), SAMPLES, target), *novelty(nearest, nearest_test)))


def novelty(nearest: NDArray[np.float32], nearest_test: NDArray[np.float32]) -> tuple[Metric, Metric]:
    """How far images are from the nearest drawing learned from, and which share of them is nearer to one than all but a
    hundredth of the held-out drawings."""
    n, copies = len(nearest), float(np.mean(nearest < np.quantile(nearest_test, 0.01)))
    return (
        Metric(
            name="nearest_training_rms",
            value=float(np.median(nearest)),
            split="train",
            n=n,
            interval=measures.bootstrap(np.median, nearest),
        ),
        measures.share("copies", copies, n, "train"),
    )


def nearest_rms(
    images: NDArray[np.uint8], drawings: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each image, the number [N] of the nearest drawing and their root mean square difference [N] in grey levels."""
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (images, drawings))
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return squares.argmin(1), np.sqrt(squares.min(1).clip(min=0) / a.shape[1])


def _fid(value: float, n: int, target: float | None) -> Metric:
    return Metric(name="fid", value=value, split="test", n=n, target=target, at_most=True)


def _start(module: nn.Module) -> None:
    """DCGAN's initial weights."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
