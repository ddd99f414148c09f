"""Server reflection: clients list services and messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.rpc import Call
from services.server.auth import ANY_TOKEN
from services.server.registry import Method

V1, V1_ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
# Both versions of the protocol have the same messages.
NAMES = tuple(f"{package}.ServerReflection" for package in (V1, V1_ALPHA))


class _Pool:
    """The files that this process knows, asked by the servicer of grpcio-reflection as a descriptor pool."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the pool's name
        """As the pool's, which does not know methods (`package.service.method`)."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            descriptor = self._pool.FindServiceByName(service)
            if method not in descriptor.methods_by_name:
                raise
            return descriptor.file


def methods(services: Iterable[str]) -> Iterator[Method]:
    """The RPCs that describe `services`; they pass the chain as any other RPC does."""
    _add_v1()
    servicer = reflection.aio.ReflectionServicer(service_names=(*services, *NAMES), pool=_Pool())

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


def _add_v1() -> None:
    """Make version 1 known, which grpcio-reflection does not come with: version 1alpha under another name."""
    pool, file = descriptor_pool.Default(), FileDescriptorProto()
    try:
        pool.FindServiceByName(NAMES[0])
    except KeyError:
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        renamed = text_format.MessageToString(file).replace("v1alpha", "v1")
        pool.AddSerializedFile(text_format.Parse(renamed, FileDescriptorProto()).SerializeToString())
