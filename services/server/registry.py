"""Which service each capability implements, and its RPCs as one table that a transport serves."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.errors import Unimplemented
from services.rpc import Call
from services.runtime.repository import Repository
from services.server.auth import MODEL_CONTROL
from services.server.settings import Settings

# Capability -> module of its stubs, module and class of its servicer.
SERVICERS = {
    "act": ("lectern.v1.act_pb2", "services.act.servicer", "ActServicer"),
    "answer": ("lectern.v1.answer_pb2", "services.answer.servicer", "AnswerServicer"),
    "classify": ("lectern.v1.classify_pb2", "services.classify.servicer", "ClassifyServicer"),
    "defend": ("lectern.v1.defend_pb2", "services.defend.servicer", "DefendServicer"),
    "detect_anomaly": ("lectern.v1.detect_anomaly_pb2", "services.detect_anomaly.servicer", "DetectAnomalyServicer"),
    "explain": ("lectern.v1.explain_pb2", "services.explain.servicer", "ExplainServicer"),
    "generate": ("lectern.v1.generate_pb2", "services.generate.servicer", "GenerateServicer"),
    "predict": ("lectern.v1.predict_pb2", "services.predict.servicer", "PredictServicer"),
    "translate": ("lectern.v1.translate_pb2", "services.translate.servicer", "TranslateServicer"),
}


MODEL_CONTROL_RPCS = ("RepositoryModelLoad", "RepositoryModelUnload")


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: `function(request or requests, call)` is awaited, or iterated if the server streams.

    Args:
        scope: what a token must allow.
    """

    service: str
    name: str
    request_class: type[Message]
    client_streaming: bool
    server_streaming: bool
    function: Callable[[Any, Call], Any]
    scope: str

    @property
    def kind(self) -> str:
        """As the label `grpc_type` of go-grpc-prometheus."""
        if self.client_streaming:
            return "bidi_stream" if self.server_streaming else "client_stream"
        return "server_stream" if self.server_streaming else "unary"


def service_of(capability: str) -> ServiceDescriptor:
    """The service that a capability implements."""
    (service,) = importlib.import_module(SERVICERS[capability][0]).DESCRIPTOR.services_by_name.values()
    return service  # type: ignore[no-any-return]


def servicer_class(capability: str) -> Any:
    """Its servicer, imported only when it is served."""
    _, module, name = SERVICERS[capability]
    return getattr(importlib.import_module(module), name)


def servicer(capability: str, repository: Repository, settings: Settings) -> Any:
    """A servicer, given those settings that its class names in `settings`."""
    found = servicer_class(capability)
    named = {name: getattr(settings, name) for name in getattr(found, "settings", ())}
    return found(repository, settings.limits, **named)


def models_of(capability: str) -> tuple[str, ...]:
    """The capabilities whose models it answers from: its own, unless its servicer says others."""
    return getattr(servicer_class(capability), "models_of", (capability,))


def is_numeric(capability: str) -> bool:
    """Whether its servicer computes between runs of graphs, and so needs an event loop of its own."""
    return getattr(servicer_class(capability), "numeric", False)


def methods(service: ServiceDescriptor, servicer: object, scope: str) -> Iterator[Method]:
    """Each RPC of the service; those that the servicer lacks answer UNIMPLEMENTED."""
    for descriptor in service.methods:
        function = getattr(servicer, descriptor.name, None) or _unimplemented(descriptor)
        yield Method(
            service=service.full_name,
            name=descriptor.name,
            request_class=GetMessageClass(descriptor.input_type),
            client_streaming=descriptor.client_streaming,
            server_streaming=descriptor.server_streaming,
            function=function,
            scope=MODEL_CONTROL if descriptor.name in MODEL_CONTROL_RPCS else scope,
        )


def _unimplemented(descriptor: MethodDescriptor) -> Callable[[Any, Call], Any]:
    error = f"{descriptor.name} is not served by this release: it has no model for it. ListModels shows what there is."

    async def unary(request: Message, call: Call) -> Message:
        raise Unimplemented(error)

    async def stream(request: Message, call: Call) -> AsyncIterator[Message]:
        raise Unimplemented(error)
        yield

    return stream if descriptor.server_streaming else unary
