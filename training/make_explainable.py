"""`lectern make-explainable`: what ExplainService needs, for a version that was exported without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artifacts.card import Card
from artifacts.versions import VersionError, read_card
from training import TrainingError, recipes
from training.data.fetch import FetchError
from training.export.parity import ExportError, check_parity
from training.export.version import add_graphs
from training.run import REPOSITORY


def make_explainable(name: str, version: int = 0, repository: Path = REPOSITORY) -> Card:
    """Add the graphs `gradient` and `random_gradient` to a version of `name` (0 = the one that is served), and an
    `explanation` to its card. The network is read out of the version's own ONNX file, which stays as it is.

    Raises:
        TrainingError: there is no such version, its recipe has no `explain`, its data cannot be had, or the network
            that was read does not answer as the file does.
    """
    if name not in (able := recipes.able("full_data")):
        raise TrainingError(f"no recipe reads an exported {name!r}; there are recipes for: {', '.join(able)}")
    recipe: Any = recipes.load(name)
    try:
        card = read_card(repository / name, version)
        path = repository / name / str(card.version) / "model.onnx"
        net, data = recipe.restore(path.read_bytes()), recipe.full_data()
        forward = recipe.forward(net, data)
        check_parity(forward, path)
        explained = recipe.explain(net, data)
        return add_graphs(card, explained.graphs, explained.explanation, repository)
    except (FetchError, ExportError, VersionError) as error:
        raise TrainingError(str(error)) from error
