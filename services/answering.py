"""Finds the model that answers a call, for every capability. Imports the card's schema and the model repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from pydantic import BaseModel

from artifacts import card
from services.capability import Capability
from services.errors import InvalidArgument, NotFound
from services.rpc import Call
from services.runtime.repository import Model, Repository

# The inputs of models of each kind, in words.
INPUTS: dict[type[BaseModel], str] = {
    card.AudioPreprocessing: "audio",
    card.ExamplesPreprocessing: "rows with the classes of some",
    card.GenerationPreprocessing: "the beginnings of texts",
    card.ImagePreprocessing: "images",
    card.NoisePreprocessing: "noise",
    card.ObservationPreprocessing: "observations",
    card.RewritingPreprocessing: "texts to rewrite",
    card.StoryPreprocessing: "stories",
    card.TabularPreprocessing: "rows of features",
    card.TextPreprocessing: "texts",
    card.TranslationPreprocessing: "texts to translate",
}
Kind = TypeVar("Kind", bound=BaseModel)


class ModelChoice(Protocol):
    """A request, or part of one, that names a model."""

    @property
    def model(self) -> str: ...

    @property
    def version(self) -> int: ...


def answering(
    repository: Repository,
    call: Call,
    request: ModelChoice,
    capability: Capability,
    kind: type[Kind],
    default: str = "",
    rpcs: Mapping[type[BaseModel], str] | None = None,
) -> tuple[Model, Kind]:
    """The model that answers `call`, and its preprocessing; sets `call.model` for the log.

    Args:
        kind: the kind of preprocessing that it must have, e.g. `ImagePreprocessing`; `BaseModel` = any.
        default: the model if the request names none; empty = the capability's default for the RPC.
        rpcs: the RPC for models of each kind, for errors.

    Raises:
        NotFound, Unavailable, InvalidArgument: see `find`.
    """
    name = request.model or default or capability.default_models[call.method]
    model, preprocessing = find(repository, name, request.version, kind, *capability.models_of, rpcs=rpcs)
    call.model = f"{model.card.name}/{model.card.version}"
    return model, preprocessing


def find(
    repository: Repository,
    name: str,
    version: int,
    kind: type[Kind],
    *capabilities: str,
    field: str = "model",
    rpcs: Mapping[type[BaseModel], str] | None = None,
) -> tuple[Model, Kind]:
    """A model of one of the capabilities, and its preprocessing.

    Args:
        field: the field of the request that names the model, for errors.

    Raises:
        NotFound, Unavailable: see `Repository.find`.
        InvalidArgument: it serves another capability, or takes inputs of another kind.
    """
    try:
        model = repository.find(name, version, *capabilities)
    except (NotFound, InvalidArgument) as error:
        ((at, description),) = error.violations
        raise type(error).field(field if at == "model" else at, description) from None
    preprocessing = model.card.preprocessing
    if not isinstance(preprocessing, kind):
        rpc = (rpcs or {}).get(type(preprocessing))
        inputs = INPUTS[type(preprocessing)] + (f": call {rpc}" if rpc else "")
        raise InvalidArgument.field(field, f"{model.card.name} does not take {INPUTS[kind]}; it takes {inputs}")
    return model, preprocessing
