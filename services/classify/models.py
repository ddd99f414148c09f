"""The models of the capability `classify`."""

from __future__ import annotations

from typing import TypeVar

from lectern.card import Preprocessing
from services.errors import InvalidArgument
from services.rpc import Call
from services.runtime.repository import Model, Repository

CAPABILITY = "classify"
# By the kind of preprocessing of the models that classify.
TAKES = {"image": "images", "audio": "audio", "text": "texts"}
P = TypeVar("P", bound=Preprocessing)


def find(repository: Repository, name: str, version: int, call: Call, takes: type[P], things: str) -> tuple[Model, P]:
    """The model that answers `call`, and how it takes its inputs, `things`.

    Raises:
        NotFound, Unavailable, InvalidArgument: see `Repository.find`; or it takes something else.
    """
    model = repository.find(name, version, CAPABILITY)
    call.model = f"{model.card.name}/{model.card.version}"
    if not isinstance(model.card.preprocessing, takes):
        taken = TAKES.get(model.card.preprocessing.kind, "something else")
        raise InvalidArgument.field("model", f"{model.card.name} does not take {things}; it takes {taken}")
    return model, model.card.preprocessing
