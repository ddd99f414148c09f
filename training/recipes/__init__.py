"""One file a model, which is a recipe by being here; it may import any part of training but the commands.

Other packages bring recipes by the entry point `lectern.recipes`: a name, and the module that is its recipe.
"""

from __future__ import annotations

import importlib
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol, cast

from artifacts.card import Limits
from lectern.client import Client
from lectern.names import unknown
from training import TrainingError
from training.measures import Evaluation
from training.run import Run
from training.served import Track
from training.trained import Trained

# The role of a model that answers together with the recipe's own, so that both are in one repository.
ENCODER = "encoder"
GROUP = "lectern.recipes"
PARTS = ("NEEDS", "MEMORY", "SHIPPED", "LIMITS", "train", "evaluate")


class Recipe(Protocol):
    """What a recipe's file holds.

    NEEDS: by role (teacher, encoder ...), the models whose exported files it reads; an encoder is read from the
        repository that the recipe writes to, any other from `exported`.
    MEMORY: GiB of memory that its training is given.
    SHIPPED: whether its weights may be in `exported`; what may not is trained when named, not by `--all`.
    LIMITS: what the model is for, and where it fails.

    Some have more: `unserved` measures what no server can; `evaluate_fresh` measures as `evaluate` does, on fresh
    texts; `requantize` rounds the served weights to 8 bits anew; `train_further` trains them on;
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


def own() -> tuple[str, ...]:
    """The models that there is a recipe for here."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def names() -> tuple[str, ...]:
    """Every model that there is a recipe for, here or in another package that is installed.

    Raises:
        TrainingError: another package's recipe has a name that is taken or that no model may have.
    """
    return tuple(sorted({*own(), *_installed()}))


def shipped() -> tuple[str, ...]:
    """The models whose weights may be in `exported`: first those from which others learn, last those that learn."""
    models = [name for name in own() if load(name).SHIPPED]
    needed = {model for name in models for model in load(name).NEEDS.values()}
    # What is needed needs nothing itself.
    return tuple(sorted(models, key=lambda name: (name not in needed, bool(load(name).NEEDS))))


def able(function: str) -> tuple[str, ...]:
    """The models whose recipes define a function that not all have."""
    return tuple(name for name in names() if hasattr(load(name), function))


def load(name: str) -> Recipe:
    """The recipe of a model.

    Raises:
        TrainingError: there is none, or another package's is none.
    """
    if name not in names():
        raise TrainingError(unknown("recipe", name, names()))
    if name in own():
        return cast(Recipe, importlib.import_module(f"{__name__}.{name}"))
    brought = _installed()[name]
    try:
        recipe = brought.load()
    except Exception as error:  # whatever another package's code raises
        raise TrainingError(f"the recipe {name} of {_bringer(brought)} cannot be imported: {error}") from error
    if missing := [part for part in PARTS if not hasattr(recipe, part)]:
        raise TrainingError(f"{brought.value} of {_bringer(brought)} is no recipe: it lacks {', '.join(missing)}")
    return cast(Recipe, recipe)


def _installed() -> dict[str, EntryPoint]:
    """The recipes of other packages, by the name of their model.

    Raises:
        TrainingError: a name is taken, or no model may have it.
    """
    brought: dict[str, EntryPoint] = {}
    for one in entry_points(group=GROUP):
        if one.name in own() or one.name in brought:
            other = _bringer(brought[one.name]) if one.name in brought else "Lectern"
            raise TrainingError(f"{_bringer(one)} brings a recipe {one.name}, and so does {other}: rename one")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", one.name):
            raise TrainingError(f"{_bringer(one)} brings a recipe {one.name!r}: a name has a-z, 0-9 and _")
        brought[one.name] = one
    return brought


def _bringer(brought: EntryPoint) -> str:
    """The package whose recipe it is."""
    return brought.dist.name if brought.dist else brought.value
