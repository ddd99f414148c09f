"""From an autoencoder to an anomaly detector: its training, its score, thresholds and probability.

The score adds two views of a picture, each relative to what is typical of normal ones: how badly it is rebuilt, in
units of each pixel's usual error; and how far its code is from the codes of training pictures (their k-means centres),
because what an autoencoder can rebuild need not be like anything it was shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from training.export.explanation import Explainable, explainable
from training.export.onnx import load_weights, stored_weights
from training.methods.autoencoders import Autoencoder, batched, k_means, squared_distances
from training.optimise import one_cycle
from training.run import Run

NEIGHBOURS = 2
VARIANCE_FLOOR = 0.3  # of the mean over pixels, so that pixels that are always black do not decide alone
HEAT_QUANTILE = 0.995
PREFIX = "threshold_at_false_positive_rate_"
RATES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Fit:
    """How an autoencoder is trained, and how many centres of codes are kept."""

    epochs: int
    batch_size: int = 128
    peak_learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    centres: int = 500


class Detector(nn.Module):
    """Pictures uint8 [N, S, S, 1] -> score and probability [N, 1], reconstruction [N, S, S, 1], error map [N, S, S].

    All outputs are float32. A reconstruction has values 0..1; an error map is 1 where the heat map is lightest.
    """

    error_variance: Tensor
    code_mean: Tensor
    typical: Tensor
    heat: Tensor
    calibration: Tensor

    def __init__(self, autoencoder: Autoencoder, size: int) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        with torch.no_grad():
            code = autoencoder.eval().encode(torch.zeros(2, 1, size, size)).shape[1]
        self.register_buffer("error_variance", torch.ones(1, size, size))
        self.register_buffer("code_mean", torch.zeros(code))
        self.register_buffer("typical", torch.ones(2))
        self.register_buffer("heat", torch.ones(()))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        self.whitening = nn.Parameter(torch.eye(code), requires_grad=False)
        self.centres = nn.Parameter(torch.zeros(NEIGHBOURS, code), requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        errors, distance, rebuilt = self.views(self.prepare(images))
        score = self.score(errors, distance)
        probability = torch.sigmoid(self.calibration[0] * score.log() + self.calibration[1])
        return score, probability, self.restore(rebuilt, images), errors[:, 0] / self.heat

    @staticmethod
    def prepare(images: Tensor) -> Tensor:
        """Images uint8 [N, S, S, 1] as the autoencoder sees them: float32 [N, 1, S, S] with values 0..1.

        Values are square roots, so that differences of dark cloth count as much as those of light cloth.
        """
        return (images.float() / 255).sqrt().permute(0, 3, 1, 2)

    @staticmethod
    def restore(rebuilt: Tensor, images: Tensor) -> Tensor:
        """What `prepare` did to `images` undone, with values 0..1."""
        return rebuilt.clamp(0, 1).square().permute(0, 2, 3, 1)

    def views(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Errors [N, 1, S, S] in units of a pixel's usual one, distance to known codes [N], reconstruction."""
        codes = self.autoencoder.encode(pictures)
        rebuilt = self.autoencoder.decode(codes)
        errors = (pictures - rebuilt).square() / self.error_variance
        apart = squared_distances((codes - self.code_mean) @ self.whitening, self.centres)
        nearest = apart.topk(NEIGHBOURS, dim=1, largest=False).values
        return errors, nearest.mean(1), rebuilt

    def score(self, errors: Tensor, distance: Tensor) -> Tensor:
        """The score [N, 1] of these views."""
        return (errors.mean((1, 2, 3)) / self.typical[0] + distance / self.typical[1])[:, None]

    @torch.no_grad()
    def learn_normal(self, train: Tensor, held_out: Tensor, centres: int, random: torch.Generator) -> None:
        """Set what is usual, from training pictures and from normal ones that were not trained on."""
        squares = batched(lambda x: (x - self.autoencoder.decode(self.autoencoder.encode(x))).square(), train)
        usual = squares.mean(0)
        self.error_variance.copy_(usual + VARIANCE_FLOOR * usual.mean())
        codes = batched(self.autoencoder.encode, train)
        self.code_mean.copy_(codes.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov(codes.T))
        self.whitening.copy_(vectors / (values + 1e-2 * values.mean()).sqrt())
        self.centres = nn.Parameter(
            k_means((codes - self.code_mean) @ self.whitening, centres, random), requires_grad=False
        )
        errors = batched(lambda x: self.views(x)[0], held_out)
        distances = batched(lambda x: self.views(x)[1], held_out)
        self.typical.copy_(torch.stack([errors.mean((1, 2, 3)).median(), distances.median()]))
        self.heat.copy_(torch.quantile(errors.flatten()[: 2**24], HEAT_QUANTILE))

    @torch.no_grad()
    def calibrate(self, normal: Tensor, anomalies: list[Tensor]) -> None:
        """Fit the logistic curve of the log score (Platt 1999) on scores, normal and of each kind of anomaly.

        Half of the weight is on normal ones, the rest is shared equally by the kinds.
        """
        groups = [normal, *anomalies]
        features = torch.cat(groups).log()[:, None].double().numpy()
        targets = np.repeat(np.arange(len(groups)) > 0, [len(g) for g in groups])
        weights = np.concatenate([np.full(len(g), (1 if i else len(anomalies)) / len(g)) for i, g in enumerate(groups)])
        curve = LogisticRegression(C=1e6).fit(features, targets, sample_weight=weights / weights.mean())
        self.calibration.copy_(torch.tensor([curve.coef_[0, 0], curve.intercept_[0]]))


class Score(nn.Module):
    """The score alone, of what the autoencoder sees times 255: float32 [N, S, S, 1] -> [N, 1].

    Square roots have no derivative at black, which most of a picture is, so explanations begin behind them.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, roots: Tensor) -> Tensor:
        errors, distance, _ = self.detector.views(roots.permute(0, 3, 1, 2).contiguous() / 255)
        return self.detector.score(errors, distance)


def explain(detector: Detector, examples: Tensor) -> Explainable:
    """What ExplainService needs of it; `examples` are images uint8 [N, S, S, 1]."""
    roots = 255 * Detector.prepare(examples).permute(0, 2, 3, 1).contiguous()
    learned = [name for name, value in Score(detector).named_parameters() if "autoencoder" in name and value.dim() > 1]
    return explainable(Score(detector), {"images": roots}, "score", labelled=False, weights=learned, exponent=0.5)


def restore(network: Autoencoder, content: bytes, size: int) -> Detector:
    """The detector that was exported to the ONNX file `content`, around a network like its own.

    The exporter folds batch norms into convolutions, and names single numbers in the order of their use.
    """
    stored = stored_weights(content)
    for part in (network.eval().encoder, network.decoder):
        assert isinstance(part, nn.Sequential)
        for i, (layer, norm) in enumerate(pairwise(part)):
            if isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                part[i] = nn.utils.fusion.fuse_conv_bn_eval(layer, norm, transposed)  # type: ignore[type-var]
                part[i + 1] = nn.Identity()
    detector = Detector(network, size)
    detector.centres = nn.Parameter(torch.zeros(stored["centres"].shape), requires_grad=False)
    used = [stored[name] for name in ("select", "select_1", "select_2", "select_3")]
    numbers = {"typical": np.stack(used[:2]), "calibration": np.stack(used[2:])}
    load_weights(detector, content, numbers)
    return detector.eval()


def to_images(arrays: NDArray[np.uint8]) -> Tensor:
    """Grey images [N, S, S] as a graph takes them: uint8 [N, S, S, 1]."""
    return torch.from_numpy(arrays)[..., None]


def fit(run: Run, fabric: Fabric, autoencoder: Autoencoder, pictures: Tensor, how: Fit, name: str) -> Autoencoder:
    """Train on pictures [N, 1, S, S]; `name` says which one of the run's networks it is."""
    count = len(pictures) // how.batch_size
    optimizer, schedule = one_cycle(autoencoder, how.peak_learning_rate, how.weight_decay, how.epochs * count)
    model, optimizer = fabric.setup(autoencoder, optimizer)
    run.fit(
        fabric,
        model,
        optimizer,
        lambda epoch: _batches(pictures, how.batch_size, run.seed, epoch),
        model,
        epochs=how.epochs,
        settings=(how, name, str(autoencoder)),
        count=count,
        schedule=schedule,
        label=name,
    )
    return autoencoder.eval().cpu()


def scores(detector: Detector, images: NDArray[np.uint8]) -> Tensor:
    """The detector's score of each image [N, S, S]; [N]."""
    return batched(lambda chunk: detector(chunk)[0][:, 0], to_images(images))


def thresholds(normal: Tensor) -> dict[str, float]:
    """A card's `decision`: the score above which a given share of normal validation pictures lies."""
    return {f"{PREFIX}{rate:g}": float(torch.quantile(normal.double(), 1 - rate)) for rate in RATES}


def _batches(pictures: Tensor, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    for start in range(0, len(pictures) - batch_size + 1, batch_size):
        yield pictures[order[start : start + batch_size]]
