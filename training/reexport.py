"""`python -m training.reexport NAME`: writes the graphs of the served version again, from the weights in them.

For a recipe whose graphs compute the same with less work than when the model was trained. Gives the same bytes each
time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from artifacts.card import known
from artifacts.versions import read_card
from training import recipes
from training.data.fetch import sha256_file
from training.export.onnx import export_graph
from training.export.parity import worst
from training.export.weights import weights_of
from training.run import REPOSITORY


def reexport(name: str, repository: Path = REPOSITORY) -> None:
    """Replace the graphs of a model whose recipe has `restore` and `graphs`; the card gets their checksums and parity.

    Raises:
        ExportError: a graph does not compute what the network does.
    """
    recipe: Any = recipes.load(name)
    card = read_card(repository / name)
    version = str(card.version)
    net = recipe.restore(
        {
            weight.removeprefix("net."): value
            for graph in card.graphs.values()
            for weight, value in weights_of((repository / graph / version / "model.onnx").read_bytes()).items()
        }
    )
    files, parities = dict(card.files), []
    with tempfile.TemporaryDirectory(dir=repository, prefix=".staging-") as directory:
        torch.manual_seed(known(card.training).seed)
        for role, graph in recipe.graphs(net).items():
            staged = Path(directory, f"{role}.onnx")
            parities.append(export_graph(graph, staged))
            files[f"{card.graphs[role]}/{version}/model.onnx"] = sha256_file(staged)
        for role, graph_name in card.graphs.items():
            Path(directory, f"{role}.onnx").replace(repository / graph_name / version / "model.onnx")
        updated = card.model_copy(update={"files": files, "parity": worst(parities)})
        updated.write(Path(directory, "card.json"))
        Path(directory, "card.json").replace(repository / name / version / "card.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m training.reexport", description=__doc__)
    parser.add_argument("name", metavar="NAME")
    reexport(parser.parse_args().name)
