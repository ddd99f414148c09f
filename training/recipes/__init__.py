"""One file a model, which is a recipe by being here; it may import any part of training but the commands."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from artifacts.card import Limits
from lectern.client import Client
from training import TrainingError
from training.measures import Evaluation
from training.run import Run
from training.served import Track
from training.trained import Trained

# The role of a model that answers together with the recipe's own, so that both are in one repository.
ENCODER = "encoder"


class Recipe(Protocol):
    """What a recipe's file holds.

    NEEDS: by role (teacher, encoder ...), the models whose exported files it reads; an encoder is read from the
        repository that the recipe writes to, any other from `exported`.
    MEMORY: GiB of memory that its training is given.
    SHIPPED: whether its weights may be in `exported`; what may not is trained when named, not by `--all`.
    LIMITS: what the model is for, and where it fails.

    Some have more: `unserved` measures what no server can; `evaluate_fresh` measures as `evaluate` does, on fresh
    texts; `requantize` rounds the served weights to 8 bits anew;
    `full_data`, `restore`, `forward` and `explain` explain an exported network; `clean_photos` are what a detector of
    attacks is calibrated on.
    """

    NEEDS: dict[str, str]
    MEMORY: int
    SHIPPED: bool
    LIMITS: Limits

    def train(self, run: Run) -> Trained | tuple[Trained, ...]:
        """Train and measure one version, or several that belong together."""

    def evaluate(self, client: Client, track: Track) -> Evaluation:
        """What the served model reaches on its whole test split."""


def names() -> tuple[str, ...]:
    """Every model that there is a recipe for."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def shipped() -> tuple[str, ...]:
    """The models whose weights may be in `exported`: first those from which others learn, last those that learn."""
    models = [name for name in names() if load(name).SHIPPED]
    needed = {model for name in models for model in load(name).NEEDS.values()}
    # What is needed needs nothing itself.
    return tuple(sorted(models, key=lambda name: (name not in needed, bool(load(name).NEEDS))))


def able(function: str) -> tuple[str, ...]:
    """The models whose recipes define a function that not all have."""
    return tuple(name for name in names() if hasattr(load(name), function))


def load(name: str) -> Recipe:
    """The recipe of a model.

    Raises:
        TrainingError: there is none.
    """
    if name not in names():
        raise TrainingError(f"no recipe is called {name!r}; there are: {', '.join(names())}")
    return cast(Recipe, importlib.import_module(f"{__name__}.{name}"))
