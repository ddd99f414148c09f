"""Requests of the Open Inference Protocol that are sound but for their parameters, shapes and contents, and requests
for reflection: each gets an answer or a code that blames the caller, and none holds up the event loop.

`make fuzz` asks for more than fits into a test run, and for others each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from tritonclient.grpc import service_pb2 as pb

from tests.conftest import Server, encode
from tests.server.fuzzing import OURS, Door, door, fuzzing
from tests.server.test_reflection import VERSIONS

INFERENCE = "/inference.GRPCInferenceService"
PICTURE = encode(np.zeros((32, 32, 3), np.uint8))
INT64, UINT64 = st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)
# What clients of Triton, KServe and MLServer send, and what the extensions of the protocol define.
PARAMETERS = (
    *("classification", "binary_data", "binary_data_size", "binary_data_output", "content_type", "dtype"),
    *("priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "triton_enable_empty_final_response"),
    *("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "headers", "trace", "Priority"),
)
GRAPHS = {
    "image_classifier": ("images", "UINT8", (32, 32, 3), ("logits",)),
    "covid_regressor": ("features", "FP32", (116,), ("prediction",)),
}
DTYPES = {"UINT8": np.uint8, "FP32": np.float32}


@st.composite
def parameter(draw: st.DrawFn) -> pb.InferParameter:
    """A value of any type, or of none."""
    kinds: dict[str, st.SearchStrategy[object]] = {
        "bool_param": st.booleans(),
        "int64_param": st.integers(-2, 12) | INT64,
        "uint64_param": st.integers(0, 12) | UINT64,
        "double_param": st.floats(),
        "string_param": st.sampled_from(("1", "0", "", "high", "np", "x" * 10_000)) | st.text(max_size=20),
    }
    kind = draw(st.sampled_from((*kinds, "")))
    return pb.InferParameter(**{kind: draw(kinds[kind])} if kind else {})


parameters = st.dictionaries(st.sampled_from(PARAMETERS) | st.text(max_size=12), parameter(), max_size=4)


@st.composite
def infer_request(draw: st.DrawFn) -> pb.ModelInferRequest:
    """A request that a graph could answer, with parameters wherever there may be some, and often one thing wrong."""
    name = draw(st.sampled_from(list(GRAPHS)))
    tensor, datatype, shape, outputs = GRAPHS[name]
    rows = draw(st.integers(1, 3))
    array = np.zeros((rows, *shape), DTYPES[datatype])
    request = pb.ModelInferRequest(model_name=name, id=draw(st.text(max_size=8)), parameters=draw(parameters))
    for _ in range(draw(st.sampled_from((1, 1, 1, 1, 0, 2)))):
        request.inputs.add(name=tensor, datatype=datatype, shape=array.shape, parameters=draw(parameters))
        request.raw_input_contents.append(array.tobytes())
    for output in draw(st.lists(st.sampled_from((*outputs, *outputs, *outputs, "nothing", "")), max_size=2)):
        request.outputs.add(name=output, parameters=draw(parameters))
    if request.inputs and not draw(st.integers(0, 3)):
        spoil(draw, request)
    return request


def spoil(draw: st.DrawFn, request: pb.ModelInferRequest) -> None:
    """Make one thing of a request wrong, or another way of saying the same."""
    tensor = request.inputs[0]
    match draw(st.integers(0, 6)):
        case 0:
            tensor.shape[:] = draw(st.lists(st.integers(-2, 40) | INT64, max_size=6))
        case 1:
            tensor.datatype = draw(
                st.sampled_from(("BYTES", "FP16", "BF16", "INT64", "uint8", "")) | st.text(max_size=8)
            )
        case 2:
            request.raw_input_contents[0] = draw(st.binary(max_size=64))
        case 3:
            del request.raw_input_contents[:]
            values = draw(st.lists(st.integers(0, 300), max_size=120))
            tensor.contents.CopyFrom(pb.InferTensorContents(uint_contents=values, fp32_contents=values))
        case 4:
            tensor.contents.bytes_contents.append(draw(st.binary(max_size=20)))
        case 5:
            request.model_version = draw(
                st.sampled_from(("1", "2", "01", "-1", "1.0", "9" * 30, "一")) | st.text(max_size=5)
            )
        case _:
            request.raw_input_contents.append(b"")


@pytest.fixture(scope="module")
def fuzzed(server: Server) -> Iterator[Door]:
    with door(server, PICTURE) as opened:
        yield opened


@fuzzing(5)
@given(infer_request())
def test_infer_requests_of_any_parameters_get_a_code_that_blames_the_caller(
    fuzzed: Door, infer: pb.ModelInferRequest
) -> None:
    code, answers = fuzzed.knock(f"{INFERENCE}/ModelInfer", [infer.SerializeToString()])
    assert code not in OURS
    if code is grpc.StatusCode.OK:
        response = pb.ModelInferResponse.FromString(answers[0])
        assert len(response.outputs) == len(response.raw_output_contents) > 0


@fuzzing(20)
@given(st.lists(infer_request(), min_size=1, max_size=5))
def test_each_infer_request_of_a_stream_gets_its_own_answer(fuzzed: Door, requests: list[pb.ModelInferRequest]) -> None:
    sent = [request.SerializeToString() for request in requests]
    code, answers = fuzzed.knock(f"{INFERENCE}/ModelStreamInfer", sent, stream=True)
    assert code is grpc.StatusCode.OK
    responses = [pb.ModelStreamInferResponse.FromString(answer) for answer in answers]
    assert [response.infer_response.id for response in responses] == [request.id for request in requests]
    assert all(response.error_message or response.infer_response.outputs for response in responses)


def symbols() -> list[str]:
    """Names of what the protocol's own files and reflection's define."""
    names = []
    for descriptor in (pb.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        file = FileDescriptorProto()
        descriptor.CopyToProto(file)
        names += [f"{file.package}.{message.name}" for message in file.message_type]
        names += [f"{file.package}.{m.name}.{field.name}" for m in file.message_type for field in m.field]
        names += [f"{file.package}.{s.name}.{method.name}" for s in file.service for method in s.method]
        names += [file.name, file.package]
    return names


name = st.sampled_from(symbols()) | st.sampled_from(("", ".", "..", "*", "lectern.v1", "a/b.proto", "x" * 50_000))
name = name | st.text(max_size=20) | st.builds("{}.{}".format, name, st.text(max_size=5)) | name.map(lambda n: f".{n}")


@st.composite
def reflection_request(draw: st.DrawFn) -> reflection_pb2.ServerReflectionRequest:
    request = reflection_pb2.ServerReflectionRequest(host=draw(st.sampled_from(("", "localhost", "x" * 1000))))
    match draw(st.integers(0, 5)):
        case 0:
            request.file_by_filename = draw(name)
        case 1:
            request.file_containing_symbol = draw(name)
        case 2:
            request.file_containing_extension.containing_type = draw(name)
            request.file_containing_extension.extension_number = draw(st.integers(-(2**31), 2**31 - 1))
        case 3:
            request.all_extension_numbers_of_type = draw(name)
        case 4:
            request.list_services = draw(name)
    return request


@pytest.mark.parametrize("version", VERSIONS)
def test_each_request_for_reflection_gets_its_own_answer(fuzzed: Door, version: str) -> None:
    @fuzzing(20)
    @given(st.lists(reflection_request(), max_size=5))
    def check(requests: list[reflection_pb2.ServerReflectionRequest]) -> None:
        sent = [request.SerializeToString() for request in requests]
        code, answers = fuzzed.knock(f"/{version}/ServerReflectionInfo", sent, stream=True)
        assert code is grpc.StatusCode.OK
        responses = [reflection_pb2.ServerReflectionResponse.FromString(answer) for answer in answers]
        assert len(responses) == len(requests)
        assert all(response.WhichOneof("message_response") for response in responses)

    check()


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_for_reflection_get_a_code_that_blames_the_caller(fuzzed: Door, version: str) -> None:
    @fuzzing(20)
    @given(st.lists(st.binary(max_size=100), min_size=1, max_size=3))
    def check(sent: list[bytes]) -> None:
        assert fuzzed.knock(f"/{version}/ServerReflectionInfo", sent, stream=True)[0] not in OURS

    check()
