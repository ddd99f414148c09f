"""The sync and the asyncio client against a real server, and against one that fails on purpose."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import lectern
from lectern import inputs
from lectern.v1 import classify_pb2, classify_pb2_grpc
from tests.waiting import WAIT

CLOSED_TARGET = "127.0.0.1:1"


@pytest.fixture
def client(server: Any) -> Iterator[lectern.Client]:
    with lectern.Client(server.target, timeout=WAIT) as client:
        yield client


@pytest.fixture
def images(photos: np.ndarray, png: Callable[..., bytes]) -> list[bytes]:
    return [png(photo) for photo in photos[:4]]


@pytest.fixture
def row(client: lectern.Client) -> list[float]:
    card: Any = client.get_model("covid_regressor").model.versions[0].card
    return [0.0] * len(card["preprocessing"]["features"])


class Faulty(classify_pb2_grpc.ClassifyServiceServicer):
    """Refuses its first `failures` calls with `code`; notes the metadata of each call."""

    def __init__(self, failures: int, code: grpc.StatusCode, details: tuple[Any, ...] = ()) -> None:
        self.failures, self.code, self.rpc_details = failures, code, details
        self.calls: list[dict[str, Any]] = []

    def ClassifyImage(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.calls.append(dict(context.invocation_metadata()) | {"peer": context.peer()})
        if len(self.calls) <= self.failures:
            status = status_pb2.Status(code=self.code.value[0], message="on purpose")
            for detail in self.rpc_details:
                status.details.add().Pack(detail)
            trailing = ("x-request-id", "r1"), ("grpc-status-details-bin", status.SerializeToString())
            context.set_trailing_metadata(trailing)
            context.abort(self.code, "on purpose")
        return classify_pb2.ClassifyImageResponse(model="faulty", version=len(self.calls))


@contextmanager
def running(servicer: Faulty, port: int = 0) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 1 << 26)])
    classify_pb2_grpc.add_ClassifyServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_image_or_several_as_bytes_or_paths(client: lectern.Client, images: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(images[0])
    one = client.classify_image(images[0], top_k=2)
    assert (one.model, len(one.results), len(one.results[0].classes)) == ("image_classifier", 1, 2)
    for same in (path, str(path), [images[0]]):
        assert client.classify_image(same, top_k=2).results[0].classes[0].label == one.results[0].classes[0].label
    many = client.classify_image([path, *images[1:]])
    assert len(many.results) == len(images)
    assert sum(c.probability for c in many.results[0].classes) == pytest.approx(1, abs=1e-4)


def test_a_stream_answers_in_order(client: lectern.Client, images: list[bytes]) -> None:
    expected = [r.classes[0].probability for r in client.classify_image(images, top_k=1).results]
    answers = list(client.stream_classify_image((images[i % 4] for i in range(40)), top_k=1))
    got = [answer.results[0].classes[0].probability for answer in answers]
    assert got == pytest.approx([expected[i % 4] for i in range(40)], abs=1e-4)
    pair, single = client.stream_classify_image([images[:2], images[0]])
    assert (len(pair.results), len(single.results)) == (2, 1)


def test_a_stream_raises_what_its_input_raises_after_the_answers(client: lectern.Client, images: list[bytes]) -> None:
    answers = client.stream_classify_image([images[0], "/no/such/file.png", images[1]])
    assert len(next(answers).results) == 1
    with pytest.raises(FileNotFoundError):
        next(answers)


def test_a_stream_that_is_refused_ends_with_its_error(client: lectern.Client, images: list[bytes]) -> None:
    answers = client.stream_classify_image([images[0], b"text"])
    with pytest.raises(lectern.LecternError) as caught:
        list(answers)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_predict_takes_a_row_or_rows(client: lectern.Client, row: list[float]) -> None:
    assert len(client.predict(row).results) == 1
    assert len(client.predict([row, row]).results) == 2
    assert len(client.predict(np.zeros((3, len(row)))).results) == 3


def test_act_takes_an_observation_or_observations(client: lectern.Client) -> None:
    assert len(client.act([0.0] * 8).results) == 1
    assert len(client.act(np.zeros((3, 8)), sample=True, seed=1).results) == 3


def test_an_episode_comes_step_by_step_and_ends_with_its_reader(client: lectern.Client) -> None:
    for _ in range(20):  # more than the server plays at once
        steps = client.run_episode(5, frame_every=1)
        assert next(steps).step == 1
        steps.close()
    *_, last = client.run_episode(5, max_steps=30)
    assert (last.step, last.truncated) == (30, True)


async def test_asyncio_client_acts_and_plays(server: Any) -> None:
    async with lectern.aio.Client(server.target, timeout=WAIT) as client:
        assert len((await client.act([0.0] * 8)).results) == 1
        steps = [step.step async for step in client.run_episode(5, max_steps=3)]
        with pytest.raises(lectern.LecternError) as caught:
            [step async for step in client.run_episode(frame_width=9)]
    assert steps == [1, 2, 3]
    assert caught.value.violations[0][0] == "frame_width"


@pytest.mark.unit
def test_rows_must_be_a_table() -> None:
    assert inputs.feature_rows([]) == []
    assert inputs.feature_rows([1, 2]) == [{"features": [1, 2]}]
    with pytest.raises(ValueError, match="3 dimensions"):
        inputs.feature_rows(np.zeros((1, 1, 1)))
    with pytest.raises(ValueError, match="inhomogeneous"):
        inputs.feature_rows([[1.0], [1.0, 2.0]])


@pytest.mark.unit
def test_clips_are_files_or_samples_with_a_rate() -> None:
    file, samples = inputs.read_clips([b"RIFF", (np.array([1, -2], np.int16), 16000)])
    assert file.encoded == b"RIFF"
    assert samples.pcm16.samples == b"\x01\x00\xfe\xff"
    assert samples.pcm16.sample_rate == 16000
    with pytest.raises(ValueError, match="int16"):
        inputs.read_clips((np.zeros(4), 16000))


@pytest.mark.unit
def test_support_is_examples_by_label() -> None:
    examples = inputs.read_labelled({"cat": [b"1", b"2"], "dog": b"3"})
    assert [(example["label"], example["image"]) for example in examples] == [
        ("cat", b"1"),
        ("cat", b"2"),
        ("dog", b"3"),
    ]


def test_models_and_health(client: lectern.Client) -> None:
    assert "image_classifier" in [model.name for model in client.list_models().models]
    assert not client.list_models().models[0].versions[0].HasField("card")
    assert client.list_models(include_cards=True).models[0].versions[0].HasField("card")
    assert client.get_model("image_classifier").model.versions[0].card["name"] == "image_classifier"
    assert client.health().status == client.health("lectern.v1.ClassifyService").status == 1


def check_bad_image(error: lectern.LecternError) -> None:
    assert isinstance(error, grpc.RpcError)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [field for field, _ in error.violations] == ["images[1]"]
    assert error.request_id
    assert error.details() in str(error)
    assert error.request_id in str(error)


def test_an_error_says_what_was_wrong(client: lectern.Client, images: list[bytes]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.classify_image([images[0], b"text"])
    check_bad_image(caught.value)  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (str(again), again.violations) == (str(caught.value), caught.value.violations)  # type: ignore[attr-defined]


async def test_an_error_says_the_same_in_asyncio(server: Any, images: list[bytes]) -> None:
    async with lectern.aio.Client(server.target, timeout=WAIT) as client:
        with pytest.raises(grpc.RpcError) as caught:
            await client.classify_image([images[0], b"text"])
    check_bad_image(caught.value)  # type: ignore[arg-type]


async def test_asyncio_answers_as_sync_does(
    server: Any, client: lectern.Client, images: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(images[0])
    expected = client.classify_image(path, top_k=1).results[0].classes[0].label
    inputs: list[str | bytes] = [str(path), *images]
    async with lectern.aio.Client(server.target, timeout=WAIT) as aio:
        answers = await asyncio.gather(*(aio.classify_image(image, top_k=1) for image in inputs))
        assert answers[0].results[0].classes[0].label == expected
        assert "image_classifier" in [model.name for model in (await aio.list_models()).models]
        assert (await aio.health()).status == 1

        async def sent() -> AsyncIterator[bytes]:
            for image in images:
                await asyncio.sleep(0)
                yield image

        for batches in (images, sent()):
            streamed = [answer async for answer in aio.stream_classify_image(batches, top_k=1)]
            labels = [answer.results[0].classes[0].label for answer in streamed]
            assert labels == [answer.results[0].classes[0].label for answer in answers[1:]]
        with pytest.raises(FileNotFoundError):
            [answer async for answer in aio.stream_classify_image([images[0], "/no/such/file.png"])]


@pytest.fixture
def silent() -> Iterator[str]:
    """The target of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.unit
def test_a_deadline_ends_a_call(silent: str) -> None:
    with lectern.Client(silent, timeout=WAIT) as client, pytest.raises(lectern.LecternError) as caught:
        client.health(timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.unit
async def test_a_deadline_ends_a_call_in_asyncio(silent: str) -> None:
    async with lectern.aio.Client(silent, timeout=0.2) as client:
        with pytest.raises(lectern.LecternError) as caught:
            await client.health()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.unit
def test_unavailable_is_retried() -> None:
    servicer = Faulty(2, grpc.StatusCode.UNAVAILABLE)
    with running(servicer) as target, lectern.Client(target, timeout=WAIT) as client:
        assert client.classify_image(bytes(1 << 20)).version == 3  # larger than what gRPC retries by default


@pytest.mark.unit
async def test_unavailable_is_retried_in_asyncio() -> None:
    servicer = Faulty(2, grpc.StatusCode.UNAVAILABLE)
    with running(servicer) as target:
        async with lectern.aio.Client(target, timeout=WAIT) as client:
            assert (await client.classify_image(b"")).version == 3


@pytest.mark.unit
def test_other_codes_are_not_retried_and_say_when_to_come_back() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=500_000_000))
    servicer = Faulty(1, grpc.StatusCode.RESOURCE_EXHAUSTED, (retry,))
    with running(servicer) as target, lectern.Client(target, timeout=WAIT) as client:
        with pytest.raises(lectern.LecternError) as caught:
            client.classify_image(b"")
        assert (caught.value.retry_after, caught.value.request_id) == (0.5, "r1")
        assert str(caught.value) == "RESOURCE_EXHAUSTED: on purpose; retry after 0.5 s; request r1"
        assert len(servicer.calls) == 1


@pytest.fixture
def late() -> Iterator[str]:
    """The target of a server that starts in a second."""
    port, stop = free_port(), threading.Event()

    def start_late() -> None:
        time.sleep(1)
        with running(Faulty(0, grpc.StatusCode.OK), port):
            stop.wait(WAIT)

    thread = threading.Thread(target=start_late)
    thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()


@pytest.mark.unit
def test_a_client_can_wait_for_a_server_that_starts_late(late: str) -> None:
    with lectern.Client(late, wait_for_ready=True, timeout=WAIT) as client:
        assert client.classify_image(b"").model == "faulty"


@pytest.mark.unit
async def test_an_asyncio_client_can_wait_for_a_server_that_starts_late(late: str) -> None:
    async with lectern.aio.Client(late, wait_for_ready=True, timeout=WAIT) as client:
        assert (await client.classify_image(b"")).model == "faulty"


@pytest.mark.unit
def test_no_server_is_unavailable_soon() -> None:
    with lectern.Client(CLOSED_TARGET, timeout=WAIT) as client, pytest.raises(lectern.LecternError) as caught:
        client.health()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, "not after its deadline, but soon"


@pytest.mark.unit
def test_a_token_travels_as_bearer() -> None:
    servicer = Faulty(0, grpc.StatusCode.OK)
    with running(servicer) as target, lectern.Client(target, token="t0ken", timeout=WAIT) as client:  # noqa: S106
        client.classify_image(b"")
    assert servicer.calls[0]["authorization"] == "Bearer t0ken"


@pytest.mark.unit
def test_each_client_has_a_connection_of_its_own() -> None:
    servicer = Faulty(0, grpc.StatusCode.OK)
    with running(servicer) as target, lectern.Client(target, timeout=WAIT) as one, lectern.Client(target) as other:
        for client in (one, other, one):
            client.classify_image(b"")
    peers = [call["peer"] for call in servicer.calls]
    assert peers[0] == peers[2] != peers[1]


@pytest.mark.unit
def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ValueError, match="go together"):
        lectern.TLS(certificate=b"pem")
