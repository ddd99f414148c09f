"""Server reflection: clients list services and messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.rpc import Call
from services.server.auth import ANY_TOKEN
from services.server.registry import Method

# Both versions of the protocol have the same messages.
NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def methods(services: Iterable[str]) -> Iterator[Method]:
    """The RPCs that describe `services`; they pass the chain as any other RPC does."""
    servicer = reflection.aio.ReflectionServicer(service_names=(*services, *NAMES))

    def describe(requests: AsyncIterator[Any], call: Call) -> Any:
        return servicer.ServerReflectionInfo(requests, None)

    for name in NAMES:
        yield Method(
            service=name,
            name="ServerReflectionInfo",
            request_class=reflection_pb2.ServerReflectionRequest,
            client_streaming=True,
            server_streaming=True,
            function=describe,
            scope=ANY_TOKEN,
        )
