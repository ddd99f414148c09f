"""`lectern evaluate`: the metrics of the fixed test splits, measured through gRPC on a running server."""

from __future__ import annotations

from pathlib import Path

from artifacts.card import Card
from artifacts.versions import VersionError, read_card
from lectern.client import Client
from training import TrainingError, recipes
from training.data.fetch import FetchError
from training.export.parity import ExportError
from training.export.version import add_figures
from training.measures import Evaluation
from training.served import Track


def evaluate(name: str, client: Client, track: Track, fresh: bool = False) -> Evaluation:
    """What the served model reaches on its whole test split, or on fresh texts.

    Raises:
        TrainingError: unknown name, test data that cannot be had, or no fresh texts for that model.
        LecternError: the server did not answer.
    """
    recipe = recipes.load(name)
    try:
        if not fresh:
            return recipe.evaluate(client, track)
        if hasattr(recipe, "evaluate_fresh"):
            evaluation: Evaluation = recipe.evaluate_fresh(client, track)
            return evaluation
        raise TrainingError(f"there are fresh texts for {', '.join(recipes.able('evaluate_fresh'))}; not for {name}")
    except FetchError as error:
        raise TrainingError(str(error)) from error


def write_figures(name: str, version: int, evaluation: Evaluation, repository: Path, track: Track) -> Card:
    """Give the card of a version what its recipe says of its limits, and the intervals, classes and calibration of what
    was measured; what no server can measure, the recipe's `unserved` does, if it has one.

    Raises:
        TrainingError: there is no such version, data cannot be had, or a figure of the card is not what was measured.
    """
    recipe = recipes.load(name)
    try:
        card = read_card(repository / name, version)
        unserved = recipe.unserved(card, repository, track) if hasattr(recipe, "unserved") else Evaluation(())
        return add_figures(card, evaluation, unserved, recipe.LIMITS, repository)
    except (FetchError, ExportError, VersionError) as error:
        raise TrainingError(str(error)) from error
