"""The Open Inference Protocol, spoken by an unmodified tritonclient."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import lectern
from artifacts.card import Card
from tests.conftest import EXPORTED, Server, encode, serving
from tests.waiting import WAIT

MODEL = "image_classifier"


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.target) as client:
        yield client


def photo_input(photos: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput("images", list(photos.shape), "UINT8")
    tensor.set_data_from_numpy(photos)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "77")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata().name == "lectern"
    metadata = client.get_model_metadata(MODEL)
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("images", "UINT8", [-1, 32, 32, 3])]
    assert [(o.name, o.datatype, list(o.shape)) for o in metadata.outputs] == [("logits", "FP32", [-1, 10])]
    assert client.get_model_config(MODEL).config.max_batch_size == 64
    index = {(m.name, m.version): m.state for m in client.get_model_repository_index().models}
    assert index[MODEL, "1"] == "READY"


def test_raw_and_typed_contents_agree(
    client: triton.InferenceServerClient, channel: grpc.Channel, photos: np.ndarray
) -> None:
    raw = client.infer(MODEL, [photo_input(photos[:2])], request_id="seven")
    assert raw.get_response().id == "seven"
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="images", datatype="UINT8", shape=[2, 32, 32, 3])
    tensor.contents.uint_contents.extend(photos[:2].ravel().tolist())
    typed = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=WAIT)
    np.testing.assert_array_equal(
        np.frombuffer(typed.raw_output_contents[0], np.float32).reshape(2, 10), raw.as_numpy("logits")
    )


def test_served_logits_are_torchs(client: triton.InferenceServerClient, photos: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    from training.recipes.image_classifier import restore

    net = restore((EXPORTED / MODEL / "1" / "model.onnx").read_bytes())
    with torch.no_grad():
        expected = net(torch.from_numpy(photos[:50])).numpy()
    logits = client.infer(MODEL, [photo_input(photos[:50])]).as_numpy("logits")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_requested_outputs(client: triton.InferenceServerClient, photos: np.ndarray) -> None:
    result = client.infer(MODEL, [photo_input(photos[:1])], outputs=[triton.InferRequestedOutput("logits")])
    assert result.as_numpy("logits").shape == (1, 10)
    with pytest.raises(InferenceServerException, match="'nothing' is not an output; there are: logits"):
        client.infer(MODEL, [photo_input(photos[:1])], outputs=[triton.InferRequestedOutput("nothing")])


def tensor(
    shape: list[int], datatype: str, name: str = "images", raw: int | None = None
) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(bytes(raw if raw is not None else int(np.prod(shape))))
    return request


def mixed() -> service_pb2.ModelInferRequest:
    request = tensor([1, 32, 32, 3], "UINT8")
    request.inputs[0].contents.uint_contents.extend([0] * 3072)
    return request


def wrong_field() -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="images", datatype="UINT8", shape=[1, 32, 32, 3]).contents.fp32_contents.extend([0] * 3072)
    return request


def out_of_range() -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="images", datatype="UINT8", shape=[1, 32, 32, 3]).contents.uint_contents.extend(
        [300] * 3072
    )
    return request


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (
            tensor([1, 3, 32, 32], "UINT8"),
            INVALID,
            r"inputs\[0\].shape: is \[1, 3, 32, 32\]; .* takes \[-1, 32, 32, 3\]",
        ),
        (tensor([32, 32, 3], "UINT8"), INVALID, "shape"),
        (tensor([0, 32, 32, 3], "UINT8"), INVALID, "shape"),
        (tensor([-1, 32, 32, 3], "UINT8", raw=0), INVALID, "shape"),
        (tensor([2**40, 32, 32, 3], "UINT8", raw=8), INVALID, r"raw_input_contents\[0\]: has 8 bytes"),
        (tensor([1, 32, 32, 3], "FP32"), INVALID, "datatype: is 'FP32'; 'images' takes UINT8"),
        (tensor([1, 32, 32, 3], ""), INVALID, "datatype"),
        (tensor([1, 32, 32, 3], "UINT8", raw=9), INVALID, r"has 9 bytes; UINT8 \[1, 32, 32, 3\] takes 3072"),
        (tensor([1, 32, 32, 3], "UINT8", name="pixels"), INVALID, "'pixels' is not an input"),
        (service_pb2.ModelInferRequest(model_name=MODEL), INVALID, "inputs: lack images"),
        (mixed(), INVALID, "must be empty when raw_input_contents is used"),
        (wrong_field(), INVALID, "has fp32_contents; UINT8 goes into uint_contents"),
        (out_of_range(), INVALID, "outside the range of UINT8"),
        (service_pb2.ModelInferRequest(model_name="nobody"), NOT_FOUND, "there is no model 'nobody'"),
        (service_pb2.ModelInferRequest(model_name=MODEL, model_version="9"), NOT_FOUND, "has no version 9"),
        (service_pb2.ModelInferRequest(model_name=MODEL, model_version="new"), INVALID, "is 'new'; send a number"),
    ],
)
def test_bad_requests(
    channel: grpc.Channel, request_: service_pb2.ModelInferRequest, code: grpc.StatusCode, says: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_, timeout=WAIT)
    assert caught.value.code() is code
    assert re.search(says, caught.value.details() or ""), caught.value.details()


def with_parameters(on: str, **parameters: object) -> service_pb2.ModelInferRequest:
    """A good request with parameters `on` the request, its input or its output."""
    request = tensor([1, 32, 32, 3], "UINT8")
    request.outputs.add(name="logits")
    target = {"request": request, "input": request.inputs[0], "output": request.outputs[0]}[on]
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(target.parameters[name], kind, value)
    return request


@pytest.mark.parametrize(
    "request_",
    [
        with_parameters("input", binary_data_size=3072),
        with_parameters("input", content_type="np"),
        with_parameters("output", binary_data=False),
        with_parameters("request", binary_data_output=True, sequence_id=0, sequence_start=False),
        with_parameters("request", timeout=2**62),
        with_parameters("request", priority=2**62),
        with_parameters("output", classification=0),
    ],
)
def test_hints_are_ignored(channel: grpc.Channel, request_: service_pb2.ModelInferRequest) -> None:
    response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_, timeout=WAIT)
    assert len(response.raw_output_contents[0]) == 40


@pytest.mark.parametrize("field", [1, 2, 3])
def test_text_that_is_not_utf8_is_refused_even_if_replaced(channel: grpc.Channel, field: int) -> None:
    request = tensor([1, 32, 32, 3], "UINT8")
    request.model_version, request.id = "1", "mine"
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    broken = bytes([field << 3 | 2, 1, 0xFF])
    with pytest.raises(grpc.RpcError) as caught:
        infer(broken + request.SerializeToString(), timeout=WAIT)
    assert caught.value.code() is INVALID
    assert caught.value.details() == "the request is not a valid inference.ModelInferRequest"


@pytest.mark.parametrize("priority", ["", "1 ", " 1", "-1", "1.0"])
def test_a_priority_in_metadata_is_a_number(channel: grpc.Channel, priority: str) -> None:
    infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
    with pytest.raises(grpc.RpcError) as caught:
        infer(tensor([1, 32, 32, 3], "UINT8"), timeout=WAIT, metadata=[("x-priority", priority)])
    assert caught.value.code() is INVALID
    assert "x-priority" in (caught.value.details() or "")


def named_twice() -> service_pb2.ModelInferRequest:
    request = with_parameters("output")
    request.outputs.add(name="logits")
    return request


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (with_parameters("input", shared_memory_region="x"), r"inputs\[0\].*shared memory is not served"),
        (with_parameters("output", shared_memory_region="x"), r"outputs\[0\].*shared memory is not served"),
        (with_parameters("request", sequence_id=7), "no model here keeps the state of a sequence"),
        (with_parameters("output", classification=-1), "must be an integer from 0"),
        (with_parameters("output", classification="three"), "must be an integer from 0"),
        (with_parameters("request", priority="high"), "must be an integer from 0"),
        (named_twice(), "'logits' is given twice"),
    ],
)
def test_demands_that_are_not_met_are_refused(
    channel: grpc.Channel, request_: service_pb2.ModelInferRequest, says: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request_, timeout=WAIT)
    assert caught.value.code() is INVALID
    assert re.search(says, caught.value.details() or ""), caught.value.details()


def test_classification_gives_the_largest_values_with_their_labels(
    client: triton.InferenceServerClient, photos: np.ndarray
) -> None:
    def infer(classes: int) -> np.ndarray:
        output = triton.InferRequestedOutput("logits", class_count=classes)
        return client.infer(MODEL, [photo_input(photos[:5])], outputs=[output]).as_numpy("logits")

    logits, labels = infer(0), Card.read(EXPORTED / MODEL / "1" / "card.json").labels
    for count, width in ((1, 1), (3, 3), (99, 10)):
        classes = infer(count)
        assert classes.shape == (5, width)
        for row, values in zip(classes, logits, strict=True):
            best = np.argsort(-values)[:width]
            assert [text.decode() for text in row] == [f"{values[i]:f}:{i}:{labels[i]}" for i in best]


def test_statistics_are_what_was_asked(tmp_path: Path, photos: np.ndarray) -> None:
    with (
        serving(tmp_path, "classify", "predict", "--workers", "2") as server,
        triton.InferenceServerClient(server.target) as client,
    ):
        for _ in range(5):
            client.infer(MODEL, [photo_input(photos[:3])])
        (stats,) = client.get_inference_statistics(MODEL).model_stats
        assert (stats.name, stats.version) == (MODEL, "1")
        counts = stats.inference_stats
        assert (counts.success.count, counts.fail.count, counts.queue.count) == (5, 0, 5)
        assert (stats.inference_count, stats.execution_count, counts.compute_infer.count) == (15, 5, 5)
        assert 0 < counts.compute_infer.ns <= counts.success.ns
        assert abs(stats.last_inference / 1000 - time.time()) < 60
        everything = {(s.name, s.version): s for s in client.get_inference_statistics().model_stats}
        assert everything["covid_regressor", "1"].inference_stats.success.count == 0
        with pytest.raises(InferenceServerException, match="there is no model 'nobody'"):
            client.get_inference_statistics("nobody")


def test_an_answer_to_a_typed_call_is_known_to_a_raw_one(tmp_path: Path, repository: Path, photos: np.ndarray) -> None:
    with (repository / MODEL / "config.pbtxt").open("a") as config:
        config.write("response_cache { enable: true }\n")
    with (
        serving(tmp_path, "classify", repository=repository, LECTERN_CACHE_BYTES="1000000") as server,
        triton.InferenceServerClient(server.target) as client,
        lectern.Client(server.target) as typed,
    ):
        (result,) = typed.classify_image([encode(photos[0])]).results
        logits = client.infer(MODEL, [photo_input(photos[:1])]).as_numpy("logits")
        assert int(np.argmax(logits)) == result.classes[0].index
        assert np.array_equal(client.infer(MODEL, [photo_input(photos[:1])]).as_numpy("logits"), logits)
        (stats,) = client.get_inference_statistics(MODEL).model_stats
        counts = stats.inference_stats
        assert (counts.cache_hit.count, counts.cache_miss.count, counts.success.count) == (2, 1, 3)
        assert stats.execution_count == 1
        assert counts.cache_hit.ns > 0


def test_rpcs_that_are_not_served_say_why(client: triton.InferenceServerClient) -> None:
    for call, says in (
        (client.get_trace_settings, "LECTERN_TRACING"),
        (client.get_log_settings, "LECTERN_LOG_LEVEL"),
        (lambda: client.register_system_shared_memory("x", "/x", 8), "shared memory is not served"),
        (lambda: client.register_cuda_shared_memory("x", b"", 0, 8), "shared memory is not served"),
    ):
        with pytest.raises(InferenceServerException, match=says) as caught:
            call()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()


def test_the_final_response_is_marked_for_who_asks(channel: grpc.Channel) -> None:
    requests = [tensor([1, 32, 32, 3], "UINT8"), with_parameters("request", triton_enable_empty_final_response=True)]
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    answers = [a.infer_response.parameters for a in stub.ModelStreamInfer(iter(requests), timeout=WAIT)]
    assert ["triton_final_response" in parameters for parameters in answers] == [False, True]
    assert answers[1]["triton_final_response"].bool_param


def test_stream_reports_a_bad_request_and_goes_on(server: Server, photos: np.ndarray) -> None:
    with grpc.insecure_channel(server.target) as channel:
        good = tensor([1, 32, 32, 3], "UINT8")
        bad = tensor([1], "UINT8")
        answers = list(
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([good, bad, good]), timeout=WAIT)
        )
    assert [bool(a.error_message) for a in answers] == [False, True, False]
    assert answers[0].infer_response.raw_output_contents == answers[2].infer_response.raw_output_contents


def test_model_control_is_off_by_default(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="LECTERN_ALLOW_MODEL_CONTROL"):
        client.unload_model(MODEL)
    assert client.is_model_ready(MODEL)


def test_model_control_when_allowed(tmp_path: Path, photos: np.ndarray) -> None:
    with (
        serving(tmp_path, LECTERN_ALLOW_MODEL_CONTROL="true") as server,
        triton.InferenceServerClient(server.target) as client,
    ):
        client.unload_model(MODEL)
        assert not client.is_model_ready(MODEL)
        with pytest.raises(InferenceServerException, match="unloaded"):
            client.infer(MODEL, [photo_input(photos[:1])])
        assert client.is_model_ready("covid_regressor")
        client.load_model(MODEL)
        assert client.infer(MODEL, [photo_input(photos[:1])]).as_numpy("logits").shape == (1, 10)
        for name in ("../exported/image_classifier", "/etc", "nobody", ".."):
            with pytest.raises(InferenceServerException, match="the repository has no model"):
                client.load_model(name)
