"""Whether a model's graph takes and gives what its card says: a card that lies would fail every call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from artifacts.card import (
    AudioPreprocessing,
    Card,
    ImagePreprocessing,
    NoisePreprocessing,
    ObservationPreprocessing,
    TabularPreprocessing,
)
from services.runtime.config import GraphConfig, TensorSpec

Tensor = tuple[str, str, tuple[int, ...]]
CLASSIFY = "classify"
LOGITS = "logits"


def check_fit(card: Card, config: GraphConfig) -> None:
    """Check the forward graph of a card.

    Raises:
        ValueError: it takes or gives other tensors; says which and what the card needs.
    """
    given = {spec.name: spec for spec in config.inputs}
    for name, datatype, shape in _needed(card, given):
        if (spec := given.get(name)) is None:
            raise ValueError(f"the card says {_kind(card)}: the graph needs an input {name!r}; it has {_list(given)}")
        if (spec.datatype, spec.shape) != (datatype, shape):
            wanted, found = f"{datatype} {list(shape)}", f"{spec.datatype} {list(spec.shape)}"
            raise ValueError(f"the card says {_kind(card)}: the input {name!r} must be {wanted} an item, not {found}")
    outputs = {spec.name: spec for spec in config.outputs}
    width = _width(card)
    if width is not None:
        name, count, of = width
        if (spec := outputs.get(name)) is None:
            raise ValueError(f"the card has {of}, so the graph needs an output {name!r}; it has {_list(outputs)}")
        if spec.shape[-1:] != (count,):
            raise ValueError(f"the card has {count} {of}, but the output {name!r} has {spec.shape[-1]} values an item")


def _needed(card: Card, given: Mapping[str, TensorSpec]) -> Iterator[Tensor]:
    """The inputs of the forward graph that the kind of preprocessing fixes."""
    match card.preprocessing:
        case AudioPreprocessing():
            yield "samples", "INT16", (-1,)
            yield "lengths", "INT64", (1,)
        case ImagePreprocessing(height=height, width=width, channels=channels) if "support" in given:  # few-shot
            yield "support", "UINT8", (-1, height, width, channels)
            yield "queries", "UINT8", (-1, height, width, channels)
        case ImagePreprocessing(height=height, width=width, channels=channels):
            yield "images", "UINT8", (height, width, channels)
        case NoisePreprocessing(size=size):
            yield "noise", "FP32", (size,)
        case ObservationPreprocessing(features=features):
            yield "observation", "FP32", (len(features),)
            yield "noise", "FP32", (len(card.labels),)
        case TabularPreprocessing(features=features):
            yield "features", "FP32", (len(features),)


def _width(card: Card) -> tuple[str, int, str] | None:
    """An output that has a value for each of something: its name, how many, and of what."""
    if isinstance(card.preprocessing, TabularPreprocessing):
        return "prediction", len(card.preprocessing.targets), "targets"
    if card.capability == CLASSIFY and card.labels:
        return LOGITS, len(card.labels), "labels"
    return None


def _kind(card: Card) -> str:
    return f"preprocessing of kind {card.preprocessing.kind!r}"


def _list(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs.values())
