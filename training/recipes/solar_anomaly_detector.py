"""HW8 on an industrial case: solar cells under electroluminescence, where an autoencoder of good cells finds cracks.

A denoising convolutional autoencoder learns good monocrystalline cells alone, each also mirrored both ways; cells that
experts call defective are the anomalies. The data allow no commercial use (CC BY-NC-SA), so no weights come with the
code: `lectern train solar_anomaly_detector` makes them, in a repository of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch import Tensor

from artifacts.card import Baseline, ImagePreprocessing, Limits
from lectern.client import Client
from training import measures
from training.data import solar_cells
from training.data.solar_cells import SIZE, Images, SolarCells
from training.export.onnx import round_to_half
from training.measures import Evaluation
from training.methods.anomaly_detection import Detector, Fit, fit, scores, thresholds, to_images
from training.methods.autoencoders import Denoising, convolutional
from training.run import Run, device_name
from training.served import Track, png
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 2
SHIPPED = False  # its data may not be used for gain, nor may what learned from them
TARGET = 0.85
COMPONENTS = 64
SERVED_BATCH = 50
LIMITS = Limits(
    intended="Monocrystalline solar cells in electroluminescence, as in the ELPV data set.",
    failures=("Principal components do better: a ROC-AUC of 0.928 beside its 0.917.",),
)


@dataclass(frozen=True)
class Settings:
    how: Fit
    code: int = 64
    width: int = 8


FULL = Settings(Fit(epochs=25, batch_size=64, centres=200))
FAST = Settings(Fit(epochs=1, batch_size=20, centres=8), code=8, width=2)


class CellDetector(Detector):
    """A detector of pictures whose brightness depends on the exposure and says nothing of the cell."""

    @staticmethod
    def prepare(images: Tensor) -> Tensor:
        values = images.float().permute(0, 3, 1, 2)
        return values / (2 * values.mean((1, 2, 3), keepdim=True)).clamp(min=1)

    @staticmethod
    def restore(rebuilt: Tensor, images: Tensor) -> Tensor:
        brightness = (2 * images.float().mean((1, 2, 3), keepdim=True)).clamp(min=1) / 255
        return (rebuilt.permute(0, 2, 3, 1) * brightness).clamp(0, 1)


def train(run: Run) -> Trained:
    """Train on good cells, set thresholds on others, and measure on a third part of them beside defective ones."""
    settings = FAST if run.fast else FULL
    data = solar_cells.load_sliver(run.sliver.with_suffix(".npz")) if run.fast else solar_cells.load()
    fabric = run.fabric("bf16-mixed")
    torch.manual_seed(run.seed)
    network = Denoising(*convolutional(SIZE, settings.code, settings.width, halvings=3))
    pictures = CellDetector.prepare(to_images(mirrored(data.train)))
    detector = CellDetector(fit(run, fabric, network, pictures, settings.how, "good cells"), SIZE)
    held_out = CellDetector.prepare(to_images(data.validation))
    detector.learn_normal(pictures, held_out, settings.how.centres, torch.Generator().manual_seed(run.seed))
    round_to_half(detector)
    normal = scores(detector, data.validation)
    detector.calibrate(normal, [scores(detector, data.defective_validation)])
    test = auc(scores(detector, data.test), scores(detector, data.defective_test))
    validation = auc(normal, scores(detector, data.defective_validation))
    examples = {"images": to_images(data.test[:8])}
    outputs = ("score", "probability", "reconstruction", "error_map")
    return Trained(
        title="Solar cell anomaly detector",
        lecture="HW8",
        capability="detect_anomaly",
        task="anomaly detection",
        description="A denoising autoencoder of good monocrystalline solar cells in electroluminescence: finds "
        "defective ones. Probabilities are calibrated on cells that experts call defective.",
        graphs={"forward": Graph(detector, examples, outputs, max_batch_size=32)},
        preprocessing=ImagePreprocessing(height=SIZE, width=SIZE, channels=1, resample="box"),
        metrics=(
            measures.area("roc_auc", [test], len(data.defective_test), len(data.test), target=TARGET),
            measures.area("roc_auc", [validation], len(data.defective_validation), len(data.validation), "validation"),
        ),
        limits=LIMITS,
        baselines=(Baseline(name="PCA", metric="roc_auc", value=pca_auc(data)),),
        decision=thresholds(normal),
        data=(solar_cells.card_entry(data),),
        device=device_name(fabric),
        parameters=sum(p.numel() for p in detector.autoencoder.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """ROC-AUC on the test cells, sent as PNG files."""
    data = solar_cells.load()

    def served(images: Images) -> Tensor:
        starts = range(0, len(images), SERVED_BATCH)
        files = ([png(image) for image in images[start : start + SERVED_BATCH]] for start in starts)
        answers = track(client.stream_detect_anomaly(files, "solar_anomaly_detector"), len(starts))
        return torch.tensor([result.score for answer in answers for result in answer.results])

    value = auc(served(data.test), served(data.defective_test))
    metric = measures.area("roc_auc", [value], len(data.defective_test), len(data.test), target=TARGET)
    return Evaluation((metric,))


def auc(good: Tensor, defective: Tensor) -> float:
    """Area under the ROC curve of two sets of scores."""
    anomalous = np.repeat([False, True], [len(good), len(defective)])
    return float(roc_auc_score(anomalous, torch.cat([good, defective]).numpy()))


def pca_auc(data: SolarCells) -> float:
    """What the reconstruction error of principal components reaches on the test cells."""
    train, good, defective = (
        CellDetector.prepare(to_images(images)).flatten(1).numpy()
        for images in (mirrored(data.train), data.test, data.defective_test)
    )
    pca = PCA(min(COMPONENTS, len(train) - 1), svd_solver="randomized", random_state=0).fit(train)
    errors = (np.square(x - pca.inverse_transform(pca.transform(x))).mean(1) for x in (good, defective))
    return auc(*(torch.from_numpy(e) for e in errors))


def mirrored(images: Images) -> Images:
    """Each image as it is, mirrored in either direction, and in both."""
    return np.concatenate([images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]])
