"""`lectern calibrate-detector`: thresholds of DefendService's detector, for a version exported without them."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from lectern.card import Card
from lectern.versions import VersionError, read_card
from training.adversarial import detector_thresholds
from training.data.fetch import FetchError
from training.export.parity import ExportError
from training.main import RECIPES, REPOSITORY, TrainingError

ABLE = tuple(name for name in RECIPES if name in ("image_classifier", "robust_classifier"))
BATCH = 250


def calibrate_detector(name: str, version: int = 0, repository: Path = REPOSITORY) -> Card:
    """Put the detector's thresholds, measured on the validation split, into the card of a version of `name` (0 =
    latest).

    Raises:
        TrainingError: there is no such version, its recipe has no photos to measure on, or they cannot be had.
    """
    if name not in ABLE:
        raise TrainingError(f"no recipe has clean photos for a detector of {name!r}; there are: {', '.join(ABLE)}")
    try:
        card = read_card(repository / name, version)
        data = importlib.import_module(f"training.{name}").full_data()
    except (FetchError, ExportError, VersionError) as error:
        raise TrainingError(str(error)) from error
    session = onnxruntime.InferenceSession(repository / name / str(card.version) / "model.onnx")

    def logits_of(images: NDArray[np.uint8]) -> Tensor:
        parts = np.array_split(images, -(-len(images) // BATCH))
        return torch.from_numpy(np.concatenate([session.run(["logits"], {"images": part})[0] for part in parts]))

    found = detector_thresholds(logits_of, data.validation.images)
    calibrated = card.model_copy(update={"decision": card.decision | found})
    calibrated.write(repository / name / str(card.version) / "card.json")
    return calibrated
