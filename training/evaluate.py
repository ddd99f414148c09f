"""`lectern evaluate`: the metrics of the fixed test splits, measured through gRPC on a running server."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lectern.card import Card
from lectern.client import Client
from lectern.versions import VersionError, read_card
from training.data.fetch import FetchError
from training.export.parity import ExportError
from training.export.version import add_figures
from training.main import RECIPES, UNSHIPPED_RECIPES, TrainingError
from training.measures import Evaluation


class Track(Protocol):
    """Wraps an iterable to show progress."""

    def __call__(self, items: Iterable[Any], total: int) -> Iterable[Any]: ...


def evaluate(name: str, client: Client, track: Track) -> Evaluation:
    """What the served model reaches on its whole test split.

    Raises:
        TrainingError: unknown name, or test data that cannot be had.
        LecternError: the server did not answer.
    """
    if name not in (*RECIPES, *UNSHIPPED_RECIPES):
        raise TrainingError(f"no model is called {name!r}; there are: {', '.join((*RECIPES, *UNSHIPPED_RECIPES))}")
    try:
        evaluation: Evaluation = importlib.import_module(f"training.{name}").evaluate(client, track)
    except FetchError as error:
        raise TrainingError(str(error)) from error
    return evaluation


def write_figures(name: str, version: int, evaluation: Evaluation, repository: Path, track: Track) -> Card:
    """Give the card of a version what its recipe says of its limits, and the intervals, classes and calibration of what
    was measured; what no server can measure, the recipe's `unserved` does, if it has one.

    Raises:
        TrainingError: there is no such version, data cannot be had, or a figure of the card is not what was measured.
    """
    recipe = importlib.import_module(f"training.{name}")
    try:
        card = read_card(repository / name, version)
        unserved = recipe.unserved(card, repository, track) if hasattr(recipe, "unserved") else Evaluation(())
        return add_figures(card, evaluation, unserved, recipe.LIMITS, repository)
    except (FetchError, ExportError, VersionError) as error:
        raise TrainingError(str(error)) from error


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image [H, W, 3] or [H, W] as the file that a client sends."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
