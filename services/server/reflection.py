"""Server reflection, by which clients list services and messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Any

from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

from inference import POOL
from services.rpc import Call
from services.server.auth import ANY_TOKEN
from services.server.registry import Method

V1, V1_ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
# Both versions of the protocol have the same messages.
NAMES = tuple(f"{package}.ServerReflection" for package in (V1, V1_ALPHA))


class _Pools:
    """protobuf's default pool and that of `inference`, as the one pool that grpcio-reflection's servicer asks."""

    _pools = (descriptor_pool.Default(), POOL)

    def __getattr__(self, name: str) -> Any:
        return partial(self._first, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the pool's name
        """As the pools' own method, which does not know RPCs (`package.service.method`)."""
        try:
            file: FileDescriptor = self._first("FindFileContainingSymbol", symbol)
            return file
        except KeyError:
            service, _, method = symbol.rpartition(".")
            descriptor: ServiceDescriptor = self._first("FindServiceByName", service)
            if method not in descriptor.methods_by_name:
                raise
            return descriptor.file

    def _first(self, name: str, *arguments: Any) -> Any:
        """The answer of the first pool that has one.

        Raises:
            KeyError: none has.
        """
        default, own = (getattr(pool, name) for pool in self._pools)
        try:
            return default(*arguments)
        except KeyError:
            return own(*arguments)


def methods(services: Iterable[str]) -> Iterator[Method]:
    """The RPCs that describe `services`; they pass the same chain as any other RPC."""
    _add_v1()
    servicer = reflection.aio.ReflectionServicer(service_names=(*services, *NAMES), pool=_Pools())

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
    """Add version 1, which grpcio-reflection lacks, to the pool: it is version 1alpha under another name."""
    pool, file = descriptor_pool.Default(), FileDescriptorProto()
    try:
        pool.FindServiceByName(NAMES[0])
    except KeyError:
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        renamed = text_format.MessageToString(file).replace("v1alpha", "v1")
        pool.AddSerializedFile(text_format.Parse(renamed, FileDescriptorProto()).SerializeToString())
