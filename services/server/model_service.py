"""ModelService: lists models with their versions, states and cards."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import json_format

from lectern.names import unknown
from lectern.v1 import model_pb2 as pb
from services.errors import NotFound
from services.rpc import Call
from services.runtime.loader import Version
from services.runtime.repository import Repository


class ModelServicer:
    """Answers ModelService from the repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def ListModels(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        models = sorted(self._repository.models.items())
        return pb.ListModelsResponse(
            models=[_describe(name, versions.values(), request.include_cards) for name, versions in models]
        )

    async def GetModel(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        versions = self._repository.models.get(request.model)
        if versions is None:
            raise NotFound.field("model", unknown("model", request.model, sorted(self._repository.models)))
        chosen = [v for v in versions.values() if request.version in (0, v.number)]
        if not chosen:
            raise NotFound.field(
                "version", f"model {request.model!r} has no version {request.version}; it has: {sorted(versions)}"
            )
        return pb.GetModelResponse(model=_describe(request.model, chosen, include_cards=True))


def _describe(name: str, versions: Iterable[Version], include_cards: bool) -> pb.Model:
    newest_first = sorted(versions, key=lambda v: -v.number)
    model = pb.Model(name=name)
    card = next((v.card for v in newest_first if v.card), None)
    if card:
        model.title, model.lecture, model.capability = card.title, card.lecture, card.capability
    for version in newest_first:
        described = model.versions.add(
            version=version.number,
            state=pb.ModelState.Value(f"MODEL_STATE_{version.state.value}"),
            reason=version.reason,
        )
        if include_cards and version.card:
            json_format.ParseDict(version.card.model_dump(mode="json"), described.card)
    return model
