"""`lectern train --all`: a round trains every shipped model once, those first from which others learn.

A round has a name if it may be interrupted, or shared by several processes: what it has finished is noted beside the
checkpoints, in `$LECTERN_CACHE/rounds/NAME`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from training import TrainingError, recipes
from training.data.fetch import cache_dir

POLL_SECONDS = 5.0


def train_all(train: Callable[[str], object], name: str | None = None, index: int | None = None) -> None:
    """Train every shipped model, or the one at `index`.

    Args:
        train: trains the model of this name.
        name: of the round; models that it has finished are passed over.
        index: from 0, in the order of `recipes.shipped()`. A model from which that one learns is another process's to
            train, in the same round, and is waited for.

    Raises:
        TrainingError: there is no model at `index`, or a training failed.
    """
    models = recipes.shipped()
    if index is not None and not 0 <= index < len(models):
        raise TrainingError(f"--index {index}: there are {len(models)} models, 0 to {len(models) - 1}")
    finished = None if name is None else cache_dir() / "rounds" / name
    console = Console(highlight=False, soft_wrap=True)
    for model in models if index is None else [models[index]]:
        if finished and (finished / model).exists():
            console.print(f"round {name} has trained {model} already")
            continue
        if finished and index is not None:
            _wait([finished / needed for needed in recipes.load(model).NEEDS.values()], f"{model} waits for", console)
        train(model)
        if finished:
            finished.mkdir(parents=True, exist_ok=True)
            (finished / model).touch()


def _wait(marks: Sequence[Path], waits_for: str, console: Console) -> None:
    for mark in marks:
        if not mark.exists():
            console.print(f"{waits_for} {mark.name}, which another process trains")
        while not mark.exists():
            time.sleep(POLL_SECONDS)
