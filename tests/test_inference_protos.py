"""The stubs of protos/inference: what tritonclient speaks, and beside its stubs in one process."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient.grpc import model_config_pb2 as their_config
from tritonclient.grpc import service_pb2 as their_service

from inference import grpc_service_pb2, model_config_pb2
from tests.conftest import ROOT


def content(stub: ModuleType) -> FileDescriptorProto:
    """Package, services, messages, fields and enums of a file, without its own and its imports' paths."""
    file = FileDescriptorProto()
    stub.DESCRIPTOR.CopyToProto(file)
    file.ClearField("name")
    file.ClearField("dependency")
    for method in file.service[0].method if file.service else ():
        method.ClearField("options")  # tritonclient's are set and empty
    return file


def printed_by(code: str) -> str:
    """What a Python of its own prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ours", "theirs"), [(grpc_service_pb2, their_service), (model_config_pb2, their_config)], ids=["service", "config"]
)
def test_our_copy_of_the_protocol_is_tritonclients(ours: ModuleType, theirs: ModuleType) -> None:
    assert content(ours) == content(theirs)


@pytest.mark.parametrize("first", ["inference.grpc_service_pb2", "tritonclient.grpc"])
def test_either_stubs_can_be_imported_first(first: str) -> None:
    code = f"""
import {first}
import inference.grpc_service_pb2 as ours, tritonclient.grpc.service_pb2 as theirs
request = ours.ModelInferRequest(model_name="m", inputs=[{{"name": "x", "shape": [1]}}])
print(theirs.ModelInferRequest.FromString(request.SerializeToString()).inputs[0].name)
"""
    assert printed_by(code) == "x"


def test_a_server_does_not_import_tritonclient() -> None:
    code = "import sys, services.server.app; print([name for name in sys.modules if name.startswith('triton')])"
    assert printed_by(code) == "[]"
