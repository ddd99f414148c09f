"""`lectern calibrate-detector`: thresholds of DefendService's detector, for a version exported without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from artifacts.card import Card
from artifacts.versions import VersionError, read_card
from training import TrainingError, recipes
from training.data.fetch import FetchError
from training.export.parity import ExportError
from training.methods.adversarial import detector_thresholds
from training.run import REPOSITORY

BATCH = 250


def calibrate_detector(name: str, version: int = 0, repository: Path = REPOSITORY) -> Card:
    """Put the detector's thresholds, measured on the validation split, into the card of a version of `name` (0 =
    latest).

    Raises:
        TrainingError: there is no such version, its recipe has no photos to measure on, or they cannot be had.
    """
    if name not in (able := recipes.able("clean_photos")):
        raise TrainingError(f"no recipe has clean photos for a detector of {name!r}; there are: {', '.join(able)}")
    recipe: Any = recipes.load(name)
    try:
        card = read_card(repository / name, version)
        photos = recipe.clean_photos()
    except (FetchError, ExportError, VersionError) as error:
        raise TrainingError(str(error)) from error
    session = onnxruntime.InferenceSession(repository / name / str(card.version) / "model.onnx")

    def logits_of(images: NDArray[np.uint8]) -> Tensor:
        parts = np.array_split(images, -(-len(images) // BATCH))
        return torch.from_numpy(np.concatenate([session.run(["logits"], {"images": part})[0] for part in parts]))

    thresholds = detector_thresholds(logits_of, photos.images)
    calibrated = card.model_copy(update={"decision": card.decision | thresholds})
    calibrated.write(repository / name / str(card.version) / "card.json")
    return calibrated
