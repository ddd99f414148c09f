"""HW6: a generator of garments that draws the kind it is asked for, 28 x 28 pixels.

The residual pair of `gans` with labels, trained on Fashion-MNIST padded to 32 x 32. It is judged by the Fréchet
distance of `fid` to the test pictures, and by whether a classifier of real garments sees in an image what was
asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from artifacts.card import Baseline, Limits, Metric, NoisePreprocessing
from lectern.client import Client
from training import measures
from training.data import fashion_mnist
from training.data.fashion_mnist import LABELS, FashionMnist
from training.data.idx import Split
from training.export.onnx import round_to_half
from training.measures import Evaluation
from training.methods import gans
from training.methods.fid import features, frechet_distance
from training.methods.gans import LATENT, Discriminator, Generator, Images, Settings
from training.run import Run, device_name
from training.served import Track
from training.trained import IMAGE, Figure, Graph, Trained

NEEDS = {"features": "image_classifier"}
MEMORY = 4
SHIPPED = True
FULL = Settings(epochs=6, batch_size=32, widths=(128, 96, 48, 24), discriminator_width=24, augmented=False)
FAST = Settings(epochs=2, batch_size=10, widths=(16, 16, 16, 16), discriminator_width=8, augmented=False)
PADDING = 2
SAMPLES = 2_000
FAST_SAMPLES = 40
SHOWN = 4
READER_PICTURES = 10_000
TARGET_LABEL_ACCURACY = 0.8
DESCRIPTION = (
    "Draws a garment of the kind that is asked for, 28 x 28 pixels, out of noise. `fid` is the Fréchet distance of the "
    "images of seeds 0 to {last}, labels in turn, from the {test} test pictures, on 256 features of image_classifier "
    "version 1. `label_accuracy` is the share of these images that a classifier sees as what was "
    "asked for: logistic regression on the same features of real pictures."
)
LIMITS = Limits(
    intended="Small grey garments of a kind that is asked for, for play.",
    failures=(
        "The label accuracy is saturated: 0.80 of its garments are read as what was asked for, but only 0.78 of "
        "real ones, so it cannot tell a good garment from a typical one.",
        "The Fréchet distance is on image_classifier's features, which are of photos: it compares generators of "
        "this project and nothing else.",
    ),
)


def train(run: Run) -> Trained:
    """Train, and measure on images of fixed seeds."""
    settings = FAST if run.fast else FULL
    data = fashion_mnist.load_sliver(run.sliver.with_suffix(".npz")) if run.fast else fashion_mnist.load()
    seeds = range(FAST_SAMPLES if run.fast else SAMPLES)
    generator, device = fit(run, settings, data.train)
    images = gans.sample(generator, seeds)
    generated, test = coloured_features(images[:, :, :, 0]), coloured_features(data.test.images)
    rows = images[: SHOWN * len(LABELS)].reshape(-1, len(LABELS), *images.shape[1:])
    reader = fit_reader(data.train)
    asked = np.array(seeds) % len(LABELS)
    few = coloured_features(data.train.images[: len(seeds)])
    return Trained(
        title="Garment generator",
        lecture="HW6",
        capability="generate",
        task="conditional image generation",
        description=DESCRIPTION.format(last=seeds[-1], test=len(data.test)),
        graphs={
            "forward": Graph(
                generator,
                {"noise": torch.randn(10, LATENT), "label": torch.arange(10)[:, None]},
                ("images",),
                max_batch_size=64,
                tolerance=IMAGE,
            )
        },
        preprocessing=NoisePreprocessing(size=LATENT),
        labels=LABELS,
        limits=LIMITS,
        metrics=metrics(generated, test, reader.score(generated, asked)),
        baselines=(
            Baseline(name="pictures learned from", metric="fid", value=frechet_distance(few, test)),
            Baseline(name="test pictures", metric="label_accuracy", value=reader.score(test, data.test.labels)),
        ),
        figures=(Figure("Images of the first seeds, a column for each label", "labels.png", gans.rows_to_png(*rows)),),
        data=(fashion_mnist.SOURCE.entry_of(data),),
        device=device,
        parameters=sum(p.numel() for p in generator.parameters()),
    )


def fit(run: Run, settings: Settings, train: Split) -> tuple[Images, str]:
    """The generator as it is served, with weights of float16's precision, and the device's name."""
    fabric = run.fabric("bf16-mixed")
    steps = len(settings.widths) - 1
    pair = (
        Generator(settings.widths, channels=1, classes=len(LABELS)),
        Discriminator(settings.discriminator_width, steps, channels=1, classes=len(LABELS)),
    )
    pictures = np.pad(train.images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))[:, :, :, None]
    averaged = gans.fit(run, fabric, *pair, settings, pictures, train.labels)
    # Not of 8 bits: with them, one image more in two hundred was read as another label.
    return round_to_half(gans.served(averaged, crop=PADDING)), device_name(fabric)


def fit_reader(train: Split) -> Pipeline:
    """Logistic regression from features to labels, on real pictures."""
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return reader.fit(coloured_features(train.images[:READER_PICTURES]), train.labels[:READER_PICTURES])


def coloured_features(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features [N, 256] of grey pictures uint8 [N, 28, 28]."""
    return features(np.repeat(pictures[:, :, :, None], 3, axis=3))


def metrics(generated: NDArray[np.float64], test: NDArray[np.float64], label_accuracy: float) -> tuple[Metric, ...]:
    """What a card says of images with these features."""
    n = len(generated)
    return (
        Metric(name="fid", value=frechet_distance(generated, test), split="test", n=n, at_most=True),
        measures.share("label_accuracy", label_accuracy, n, target=TARGET_LABEL_ACCURACY),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Both figures of served images, of the same seeds."""
    data: FashionMnist = fashion_mnist.load()
    generated = coloured_features(gans.served_images(client, "garment_generator", SAMPLES, track))
    asked = np.arange(SAMPLES) % len(LABELS)
    return Evaluation(
        metrics(generated, coloured_features(data.test.images), fit_reader(data.train).score(generated, asked))
    )
