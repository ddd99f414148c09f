"""What a client learns by reflection, in either version of the protocol."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from tests.waiting import WAIT

VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def ask(channel: grpc.Channel, version: str, **request: object) -> pb.ServerReflectionResponse:
    call = channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    (response,) = call(iter([pb.ServerReflectionRequest(**request)]), timeout=WAIT)
    return response


def services_of(response: pb.ServerReflectionResponse) -> set[str]:
    files = map(FileDescriptorProto.FromString, response.file_descriptor_response.file_descriptor_proto)
    return {f"{file.package}.{service.name}" for file in files for service in file.service}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_listed_service_is_described(channel: grpc.Channel, version: str) -> None:
    listed = [service.name for service in ask(channel, version, list_services="*").list_services_response.service]
    assert set(VERSIONS) <= set(listed)
    for name in listed:
        assert name in services_of(ask(channel, version, file_containing_symbol=name))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("symbol", "service"),
    [
        ("lectern.v1.ClassifyService.ClassifyImage", "lectern.v1.ClassifyService"),
        ("grpc.health.v1.Health.Watch", "grpc.health.v1.Health"),
        ("inference.GRPCInferenceService.ModelInfer", "inference.GRPCInferenceService"),
        ("lectern.v1.ClassifyImageRequest", "lectern.v1.ClassifyService"),
        ("lectern.v1.ClassifyImageRequest.images", "lectern.v1.ClassifyService"),
    ],
)
def test_methods_messages_and_fields_are_symbols(
    channel: grpc.Channel, version: str, symbol: str, service: str
) -> None:
    assert service in services_of(ask(channel, version, file_containing_symbol=symbol))


@pytest.mark.parametrize("symbol", ["nobody", "lectern.v1.ClassifyService.Nothing", "", ".", "x" * 100_000])
def test_an_unknown_symbol_is_not_found(channel: grpc.Channel, symbol: str) -> None:
    response = ask(channel, VERSIONS[0], file_containing_symbol=symbol)
    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
