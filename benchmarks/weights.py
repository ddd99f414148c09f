"""The committed weights of the models that write token by token, by their names in the modules: for other engines."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from artifacts.versions import read_card
from training.export.weights import Weights, weights_of

TRANSLATOR, POET = "translator_en_zh", "poem_generator"


def vocabulary(repository: Path, model: str, tokenizer: str) -> list[str]:
    """Tokens in the order of their ids."""
    ids = tokenizer_of(repository, model, tokenizer).get_vocab()
    return sorted(ids, key=ids.__getitem__)


def tokenizer_of(repository: Path, model: str, name: str) -> Tokenizer:
    return Tokenizer.from_file(str(repository / model / served(repository, model) / f"{name}.json"))


def served(repository: Path, model: str) -> str:
    """The directory of the version that is served."""
    return str(read_card(repository / model).version)


def named_weights(repository: Path, *graphs: str) -> Weights:
    """The constants of a model's graphs by their names in its module."""
    version = served(repository, graphs[0])
    w: Weights = {}
    for graph in graphs:
        w |= weights_of((repository / graph / version / "model.onnx").read_bytes())
    return {name.removeprefix("net."): value for name, value in w.items()}
