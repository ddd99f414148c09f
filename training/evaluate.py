"""`lectern evaluate`: the metrics of the fixed test splits, measured through gRPC on a running server."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lectern.card import Metric
from lectern.client import Client
from training.data.fetch import FetchError
from training.main import RECIPES, UNSHIPPED_RECIPES, TrainingError


class Track(Protocol):
    """Wraps an iterable to show progress."""

    def __call__(self, items: Iterable[Any], total: int) -> Iterable[Any]: ...


def evaluate(name: str, client: Client, track: Track) -> tuple[Metric, ...]:
    """What the served model reaches on its whole test split.

    Raises:
        TrainingError: unknown name, or test data that cannot be had.
        LecternError: the server did not answer.
    """
    if name not in (*RECIPES, *UNSHIPPED_RECIPES):
        raise TrainingError(f"no model is called {name!r}; there are: {', '.join((*RECIPES, *UNSHIPPED_RECIPES))}")
    try:
        metrics: tuple[Metric, ...] = importlib.import_module(f"training.{name}").evaluate(client, track)
    except FetchError as error:
        raise TrainingError(str(error)) from error
    return metrics


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image [H, W, 3] or [H, W] as the file that a client sends."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
