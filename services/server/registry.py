"""Servicers of capabilities, and their RPCs as one table that a transport serves."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.capability import Capability
from services.errors import Unimplemented
from services.rpc import Call
from services.runtime.repository import Repository
from services.server.auth import MODEL_CONTROL
from services.server.settings import Settings

MODEL_CONTROL_RPCS = ("RepositoryModelLoad", "RepositoryModelUnload")


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: `function(request or requests, call)` is awaited, or iterated if the server streams.

    Args:
        scope: the scope that a token needs.
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
        """The value of the label `grpc_type` of go-grpc-prometheus."""
        if self.client_streaming:
            return "bidi_stream" if self.server_streaming else "client_stream"
        return "server_stream" if self.server_streaming else "unary"


def servicer(capability: Capability, repository: Repository, settings: Settings) -> Any:
    """A capability's servicer, created with the settings that its descriptor names; its module is imported only now."""
    module, _, name = capability.servicer.partition(":")
    named = {name: getattr(settings, name) for name in capability.settings}
    return getattr(importlib.import_module(module), name)(repository, settings.limits, **named)


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
    error = f"{descriptor.name} is not served by this release. ListModels shows the models that are."

    async def unary(request: Message, call: Call) -> Message:
        raise Unimplemented(error)

    async def stream(request: Message, call: Call) -> AsyncIterator[Message]:
        raise Unimplemented(error)
        yield

    return stream if descriptor.server_streaming else unary
