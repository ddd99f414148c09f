"""The Open Inference Protocol over HTTP, spoken by an unmodified tritonclient and by hand."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from google.rpc import code_pb2
from tritonclient.utils import InferenceServerException

from tests.conftest import Server, serving
from tests.server.pki import make_token
from tests.server.test_http import connect, post
from tests.waiting import WAIT

MODEL = "image_classifier"


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with client_of(server) as client:
        yield client


@pytest.fixture
def http(server: Server) -> Iterator[HTTPConnection]:
    connection = connect(server)
    yield connection
    connection.close()


def client_of(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(
        server.http_url.removeprefix("http://"), connection_timeout=WAIT, network_timeout=WAIT
    )


def photo_input(photos: np.ndarray, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("images", list(photos.shape), "UINT8")
    tensor.set_data_from_numpy(photos, binary_data=binary)
    return tensor


@pytest.fixture(scope="module")
def logits(server: Server, photos: np.ndarray) -> np.ndarray:
    """What gRPC answers for the first two photos."""
    tensor = over_grpc.InferInput("images", [2, 32, 32, 3], "UINT8")
    tensor.set_data_from_numpy(photos[:2])
    with over_grpc.InferenceServerClient(server.target) as client:
        return np.asarray(client.infer(MODEL, [tensor]).as_numpy("logits"))


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "77")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "lectern"
    metadata = client.get_model_metadata(MODEL, "1")
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert client.get_model_config(MODEL)["max_batch_size"] == 64
    index = {(m["name"], m["version"]): m["state"] for m in client.get_model_repository_index()}
    assert index[MODEL, "1"] == "READY"
    assert client.get_inference_statistics(MODEL)["model_stats"][0]["name"] == MODEL


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("asked_binary", [True, False, None])
def test_tensors_travel_as_bytes_and_as_json(
    client: triton.InferenceServerClient,
    photos: np.ndarray,
    logits: np.ndarray,
    sent_binary: bool,
    asked_binary: bool | None,
) -> None:
    outputs = None if asked_binary is None else [triton.InferRequestedOutput("logits", binary_data=asked_binary)]
    result = client.infer(MODEL, [photo_input(photos[:2], sent_binary)], outputs=outputs, request_id="seven")
    assert result.get_response()["id"] == "seven"
    assert result.get_response()["model_version"] == "1"
    np.testing.assert_allclose(result.as_numpy("logits"), logits, rtol=1e-6)


def test_a_version_is_named_in_the_path(client: triton.InferenceServerClient, photos: np.ndarray) -> None:
    assert client.infer(MODEL, [photo_input(photos[:1])], model_version="1").as_numpy("logits").shape == (1, 10)
    with pytest.raises(InferenceServerException, match=r"\[404\].*has no version 9"):
        client.infer(MODEL, [photo_input(photos[:1])], model_version="9")


@pytest.mark.parametrize("binary", [True, False])
def test_classes_are_returned_where_they_are_asked_for(
    client: triton.InferenceServerClient, photos: np.ndarray, binary: bool
) -> None:
    asked = triton.InferRequestedOutput("logits", binary_data=binary, class_count=3)
    answer = client.infer(MODEL, [photo_input(photos[:2])], outputs=[asked]).as_numpy("logits")
    assert answer.shape == (2, 3)
    value, index, label = np.ravel(answer)[0].decode().split(":") if binary else str(np.ravel(answer)[0]).split(":")
    assert (float(value), int(index)) != (0, 0)
    assert label.strip("'").isalpha()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(
    client: triton.InferenceServerClient, photos: np.ndarray, logits: np.ndarray, algorithm: str
) -> None:
    result = client.infer(MODEL, [photo_input(photos[:2])], request_compression_algorithm=algorithm)
    np.testing.assert_allclose(result.as_numpy("logits"), logits, rtol=1e-6)


def test_a_bomb_is_not_inflated(http: HTTPConnection) -> None:
    bomb = gzip.compress(bytes(200 * 2**20))
    code, _, body = post(http, f"/v2/models/{MODEL}/infer", bomb, content_encoding="gzip")
    assert (code, json.loads(body)["code"]) == (413, code_pb2.RESOURCE_EXHAUSTED)
    code, _, body = post(http, f"/v2/models/{MODEL}/infer", b"no gzip", content_encoding="gzip")
    assert code == 400
    assert post(http, f"/v2/models/{MODEL}/infer", b"{}", content_encoding="br")[0] == 415


async def test_the_client_for_asyncio_is_answered(server: Server, photos: np.ndarray, logits: np.ndarray) -> None:
    async with triton_aio.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        results = await asyncio.gather(*(client.infer(MODEL, [photo_input(photos[:2])]) for _ in range(20)))
    for result in results:
        np.testing.assert_allclose(result.as_numpy("logits"), logits, rtol=1e-4, atol=1e-5)


def document(**changed: object) -> dict[str, object]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}
    return {"inputs": [tensor | changed]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (document(data=[0] * 9), "inputs[0].data: has 9 values; the shape [1, 32, 32, 3] takes 3072"),
        (document(data=[300] * 3072), "outside the range of UINT8"),
        (document(data=[-1] * 3072), "outside the range of UINT8"),
        (document(data=[0.5] * 3072), "values that are not UINT8"),
        (document(data=["0"] * 3072), "values that are not UINT8"),
        (document(data=[[1, 2], [3]]), "not a regular list"),
        (document(data=["x" * 10_000] + [""] * 100_000), "values that are not UINT8"),  # 4 GB as an array
        (document(shape=[2**62] * 500_000), "has 3072 values; the shape"),
        (document(parameters={"\ud800": 1}), "half of a surrogate pair"),
        (document(parameters={"x": "\ud800"}), "half of a surrogate pair"),
        (document(data={"a": 1}), "inputs[0].data"),
        (document(datatype="INT4"), "cannot be INT4"),
        (document(datatype="FP32"), "'images' takes UINT8"),
        (document(datatype=7), "inputs[0].datatype: must be a string"),
        (document(shape="x"), "inputs[0].shape: must be a list"),
        (document(shape=[1, 3, 32, 32]), "takes [-1, 32, 32, 3]"),
        (document(shape=[2**70]), "must be a list of integers"),
        (document(shape=[1.0, 32, 32, 3]), "must be a list of integers"),
        (document(name="pixels"), "'pixels' is not an input"),
        (document(parameters={"binary_data_size": 5}), "0 bytes follow"),
        (document(parameters={"shared_memory_region": "x"}), "shared memory is not served"),
        (document(parameters={"x": []}), "must be a boolean, a number or a string"),
        ({"inputs": [], "outputs": [{"name": "nothing"}]}, "inputs: lack images"),
        (document() | {"outputs": [{"name": "nothing"}]}, "'nothing' is not an output"),
        (document() | {"parameters": {"sequence_id": 3}}, "parameters[sequence_id]"),
        ({"inputs": [7]}, "inputs[0]: must be a JSON object"),
        ([], "body: must be a JSON object"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(http: HTTPConnection, body: object, says: str) -> None:
    code, _, answer = post(http, f"/v2/models/{MODEL}/infer", json.dumps(body).encode())
    error = json.loads(answer)
    assert (code, error["code"]) == (400, code_pb2.INVALID_ARGUMENT)
    assert says in error["error"] == error["message"]


@pytest.mark.parametrize(
    ("length", "says"),
    [("x", "send the number of bytes"), ("999999", "the body has"), ("2", "follow that belong to no input")],
)
def test_a_wrong_length_of_json_is_refused(http: HTTPConnection, length: str, says: str) -> None:
    headers = {"inference_header_content_length": length}
    code, _, answer = post(http, f"/v2/models/{MODEL}/infer", b"{} more", **headers)
    assert code == 400
    assert says in json.loads(answer)["error"]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v2", 200),
        ("GET", "/v2/", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health", 404),
        ("GET", f"/v2/models/{MODEL}/infer", 405),
        ("POST", f"/v2/models/{MODEL}", 405),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 400),
        ("GET", f"/v2/models/{MODEL}/versions/new", 400),
        ("GET", "/v2/models/" + "x" * 3000, 400),
        ("POST", f"/v2/repository/models/{MODEL}/unload", 403),
    ],
)
def test_paths(http: HTTPConnection, method: str, path: str, code: int) -> None:
    http.request(method, path)
    response = http.getresponse()
    body = response.read()
    assert response.status == code, body
    json.loads(body)


def test_models_are_loaded_and_unloaded_where_that_is_allowed(tmp_path: Path) -> None:
    name = "covid_regressor"
    with serving(tmp_path, "predict", "--allow-model-control") as server, client_of(server) as client:
        client.unload_model(name)
        assert not client.is_model_ready(name)
        client.load_model(name)
        assert client.is_model_ready(name)
        with pytest.raises(InferenceServerException, match="parameters: are not accepted"):
            client.load_model(name, config="{}")


def test_a_token_opens_what_its_scopes_say(tmp_path: Path) -> None:
    make_token(tokens := tmp_path / "tokens.json", "models", "--scope", "models")
    token = make_token(tokens, "inference", "--scope", "inference")
    with serving(tmp_path, "predict", LECTERN_TOKENS=str(tokens)) as server, client_of(server) as client:
        with pytest.raises(InferenceServerException, match="valid bearer token"):
            client.get_server_metadata()
        assert client.get_server_metadata(headers={"Authorization": f"Bearer {token}"})["name"] == "lectern"
