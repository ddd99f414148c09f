"""The native transport where it differs from grpc.aio: gRPC's protocol, misbehaving callers, flow control, drain."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lectern.errors import LecternError
from lectern.v1 import classify_pb2, model_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from lectern.v1.model_pb2_grpc import ModelServiceStub
from tests.conftest import ROOT, Server, encode, serving
from tests.server.pki import Pki
from tests.server.raw_http2 import connected, framed, unframed
from tests.server.test_server import get, sample, wait_for_log
from tests.waiting import WAIT, wait_until

LIVE = "/inference.GRPCInferenceService/ServerLive"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
OK, INVALID, DEADLINE, EXHAUSTED, UNIMPLEMENTED = 0, 3, 4, 8, 12
MESSAGE_BYTES = 2 * 2**20
MB = 2**20


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("native")
    limit = {"LECTERN_LIMITS__MESSAGE_BYTES": str(MESSAGE_BYTES)}
    with serving(directory, "--transport", "native", **limit) as running:
        yield running
        assert not [r for r in running.log_records() if r["level"] == "ERROR"]


@pytest.fixture
def channel(native: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(native.target, [("grpc.max_send_message_length", -1)]) as channel:
        yield channel


def resident(server: Server) -> int:
    return int(psutil.Process(server.pid).memory_info().rss)


def handled(server: Server, method: str, code: str) -> float:
    try:
        return sample(
            get(f"{server.metrics_url}/metrics"), "grpc_server_handled_total", grpc_method=method, grpc_code=code
        )
    except AssertionError:  # a series appears with its first value
        return 0


def describe(symbol: str = "inference.GRPCInferenceService") -> bytes:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    return framed(request.SerializeToString())


def test_deadline_ends_a_call_that_its_caller_does_not_end(native: Server) -> None:
    before = handled(native, "Watch", "DEADLINE_EXCEEDED")
    with connected(native.target) as connection:
        stream = connection.call(WATCH, framed(b""), headers=[("grpc-timeout", "2S")])
        answer = connection.answer(stream)
    assert (answer.ended, answer.status) == ("end", DEADLINE)
    assert len(unframed(answer.body)) == 1
    wait_until(lambda: handled(native, "Watch", "DEADLINE_EXCEEDED") == before + 1)


def test_deadline_covers_a_body_that_does_not_come(native: Server) -> None:
    with connected(native.target) as connection:
        stream = connection.call(LIVE, framed(b"")[:3], end=False, headers=[("grpc-timeout", "200m")])
        assert connection.answer(stream).status == DEADLINE


@pytest.mark.parametrize("how", ["reset", "closed connection"])
def test_a_caller_who_leaves_ends_its_call(native: Server, how: str) -> None:
    before = handled(native, "Watch", "CANCELLED")
    with connected(native.target) as connection:
        stream = connection.call(WATCH, framed(b""))
        wait_until(lambda: connection.receive(1) and bool(connection.answers[stream].body))
        if how == "reset":
            connection.http.reset_stream(stream, 8)
            connection.flush()
            wait_until(lambda: handled(native, "Watch", "CANCELLED") == before + 1)
    wait_until(lambda: handled(native, "Watch", "CANCELLED") == before + 1)


def test_a_caller_who_leaves_a_two_way_stream_ends_it(native: Server) -> None:
    before = handled(native, "ServerReflectionInfo", "CANCELLED")
    with connected(native.target) as connection:
        stream = connection.call(REFLECT, describe(), end=False)
        wait_until(lambda: connection.receive(1) and bool(connection.answers[stream].body))
    wait_until(lambda: handled(native, "ServerReflectionInfo", "CANCELLED") == before + 1)


def test_32_callers_who_change_their_minds(native: Server, photos: np.ndarray) -> None:
    images = [encode(photo) for photo in photos[:8]]

    def ask(seed: int) -> int:
        chance, answered = random.Random(seed), 0  # noqa: S311
        with grpc.insecure_channel(native.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = ClassifyServiceStub(channel)
            for _ in range(8):
                call = stub.ClassifyImage.future(classify_pb2.ClassifyImageRequest(images=images), timeout=WAIT)
                if chance.random() < 0.7:
                    time.sleep(chance.random() * 0.02)
                    call.cancel()
                elif len(call.result().results) == len(images):
                    answered += 1
        return answered

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(ask, range(32))) > 0
    rpc = {"grpc_method": "ClassifyImage"}

    def settled() -> bool:
        metrics = get(f"{native.metrics_url}/metrics")
        codes = sum(handled(native, "ClassifyImage", code) for code in ("OK", "CANCELLED"))
        waiting = sample(metrics, "lectern_queue_depth", model="image_classifier")
        return waiting == 0 and codes == sample(metrics, "grpc_server_started_total", **rpc)

    wait_until(settled)


def test_request_ids_errors_and_details(channel: grpc.Channel) -> None:
    models = ModelServiceStub(channel)
    metadata = (("x-request-id", "mine"), ("trace-bin", b"\x00\xff"))
    _, call = models.ListModels.with_call(model_pb2.ListModelsRequest(), metadata=metadata, timeout=WAIT)
    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    with pytest.raises(grpc.RpcError) as caught:
        models.GetModel(model_pb2.GetModelRequest(model="模型 100%\n"), timeout=WAIT)
    error = LecternError.of(caught.value)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "模型 100%" in caught.value.details()
    assert [field for field, _ in error.violations] == ["model"]
    assert len(dict(caught.value.trailing_metadata())["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (framed(b""), [], OK),
        (framed(b""), [("content-type", "application/grpc+proto")], OK),
        (framed(b""), [("grpc-timeout", "99999999H")], OK),
        (framed(b""), [("grpc-timeout", "soon")], OK),
        (framed(b""), [("grpc-timeout", "0n")], DEADLINE),
        (framed(b""), [("x-y-bin", "!not base64!")], OK),
        (None, [], INVALID),
        (framed(b"")[:3], [], INVALID),
        (framed(b"abc")[:6], [], INVALID),
        (framed(b"") + framed(b""), [], INVALID),
        (framed(b"") + b"\0", [], INVALID),
        (framed(b"\xff\xff\xff"), [], INVALID),
        (framed(zlib.compress(b""), compressed=True), [("grpc-encoding", "gzip")], UNIMPLEMENTED),
        (b"\x07\0\0\0\0", [], UNIMPLEMENTED),
        (framed(bytes(MESSAGE_BYTES + 1)), [], EXHAUSTED),
        (framed(b""), [(":path", "/inference.GRPCInferenceService/Nothing")], UNIMPLEMENTED),
        (framed(b""), [(":path", "/")], UNIMPLEMENTED),
    ],
)
def test_status_of_odd_requests(
    native: Server, body: bytes | None, headers: list[tuple[str, str]], status: int
) -> None:
    with connected(native.target) as connection:
        answer = connection.answer(connection.call(LIVE, body, headers=headers))
    assert answer.headers[":status"] == "200"
    assert answer.status == status


@pytest.mark.parametrize("headers", [("content-type", "text/html"), (":method", "GET")])
def test_what_is_not_grpc_is_refused(native: Server, headers: tuple[str, str]) -> None:
    with connected(native.target) as connection:
        answer = connection.answer(connection.call(LIVE, framed(b""), headers=[headers]))
    assert answer.headers[":status"] in ("405", "415")


def test_a_message_over_the_limit_is_not_read(native: Server) -> None:
    before = resident(native)
    with connected(native.target) as connection:
        stream = connection.call(LIVE, b"\0" + (3 * 2**30).to_bytes(4, "big") + bytes(32 * MB), end=False)
        answer = connection.answer(stream)
    assert answer.status == EXHAUSTED
    assert resident(native) - before < 32 * MB


def test_a_bomb_is_not_unpacked(native: Server) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(bomb.compress(bytes(MB)) for _ in range(128)) + bomb.flush()
    before = resident(native)
    with connected(native.target) as connection:
        stream = connection.call(LIVE, framed(packed, compressed=True), headers=[("grpc-encoding", "gzip")])
        assert connection.answer(stream).status == UNIMPLEMENTED
    assert resident(native) - before < 32 * MB


def test_large_messages(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), np.uint8)
    request = service_pb2.ModelInferRequest(model_name="image_classifier")
    request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    with serving(tmp_path, "--transport", "native") as server:
        with grpc.insecure_channel(server.target, [("grpc.max_send_message_length", -1)]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.ModelInfer(request, timeout=WAIT)
        assert answer.outputs[0].shape[0] == len(images)


def test_a_caller_who_does_not_read_is_not_read_from(native: Server) -> None:
    request = describe()
    before = resident(native)
    with connected(native.target, window=0) as connection:
        stream = connection.call(REFLECT, end=False)
        sent = connection.send(stream, request * (32 * MB // len(request)), end=False, patience=2)
        assert sent < 24 * MB
        assert resident(native) - before < 48 * MB
        # Others are served meanwhile.
        with connected(native.target) as other:
            assert other.answer(other.call(LIVE, framed(b""))).status == OK


def test_streams_keep_their_order_through_a_small_window(native: Server) -> None:
    symbols = ["inference.GRPCInferenceService", "lectern.v1.ModelService", "grpc.health.v1.Health"] * 20
    with connected(native.target, window=100) as connection:
        answer = connection.answer(connection.call(REFLECT, b"".join(map(describe, symbols))))
    assert answer.status == OK
    replies = [reflection_pb2.ServerReflectionResponse.FromString(m) for m in unframed(answer.body)]
    assert [r.original_request.file_containing_symbol for r in replies] == symbols


def test_garbage_on_the_socket(native: Server) -> None:
    chance = random.Random(0)  # noqa: S311
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    host, port = native.target.split(":")
    before = resident(native)
    for i in range(300):
        junk = chance.randbytes(chance.randrange(1, 4000))
        if i % 3 == 1:
            junk = preface + junk
        elif i % 3 == 2:  # whole frames of every type, with random flags, streams and contents
            frames = []
            for _ in range(20):
                content = chance.randbytes(chance.randrange(0, 200))
                kind, flags, stream = chance.randrange(12), chance.randrange(256), chance.randrange(6)
                frames.append(len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big"))
                frames.append(content)
            junk = preface + b"".join(frames)
        with socket.create_connection((host, int(port)), timeout=WAIT) as raw:
            try:
                raw.sendall(junk)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(2**16):
                    pass
            except ConnectionError:
                pass
    with connected(native.target) as connection:
        assert connection.answer(connection.call(LIVE, framed(b""))).status == OK
    assert resident(native) - before < 32 * MB
    wait_until(lambda: psutil.Process(native.pid).num_fds() < 100)


def test_changed_bytes_of_good_calls(native: Server) -> None:
    chance = random.Random(1)  # noqa: S311
    host, port = native.target.split(":")
    for _ in range(300):
        with connected(native.target) as good:
            good.http.send_headers(
                1,
                [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", LIVE),
                    (":authority", "test"),
                    ("te", "trailers"),
                    ("content-type", "application/grpc"),
                ],
            )
            good.http.send_data(1, framed(b""), end_stream=True)
            call = bytearray(good.http.data_to_send())
        for _ in range(chance.randrange(1, 6)):
            call[chance.randrange(len(call))] = chance.randrange(256)
        with socket.create_connection((host, int(port)), timeout=WAIT) as raw:
            try:
                raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + call)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(2**16):
                    pass
            except ConnectionError:
                pass
    with connected(native.target) as connection:
        assert connection.answer(connection.call(LIVE, framed(b""))).status == OK


def test_calls_reset_as_fast_as_they_are_made(native: Server) -> None:
    before = resident(native)
    for _ in range(20):
        with connected(native.target) as connection:
            try:
                for _ in range(200):
                    stream = connection.call(LIVE, framed(bytes(10_000)))
                    connection.http.reset_stream(stream)
                connection.flush()
            except OSError:  # the server has had enough of this one
                continue
    with connected(native.target) as connection:
        assert connection.answer(connection.call(LIVE, framed(b""))).status == OK
    assert resident(native) - before < 64 * MB


@pytest.mark.parametrize(("cancelled", "ends"), [(150, False), (250, True)])
def test_a_connection_that_cancels_too_much_is_closed_alone(native: Server, cancelled: int, ends: bool) -> None:
    """h2corn takes 200 cancellations in 10 s on one connection: more look like an attack (CVE-2023-44487)."""
    with connected(native.target) as calm, connected(native.target) as hasty:
        on_calm, on_hasty = (c.call(WATCH, framed(b"")) for c in (calm, hasty))
        for _ in range(cancelled):
            stream = hasty.call(WATCH, framed(b""))
            hasty.http.reset_stream(stream, 8)
        hasty.flush()
        if ends:
            assert hasty.answer(on_hasty).ended
        for connection, watching in ((calm, on_calm), *(() if ends else ((hasty, on_hasty),))):
            assert connection.answer(connection.call(LIVE, framed(b""))).status == OK
            assert not connection.answers[watching].ended


def test_too_many_headers_are_refused(native: Server) -> None:
    with connected(native.target) as connection:
        answer = connection.answer(connection.call(LIVE, framed(b""), headers=[("x", "a" * 100_000)]))
    assert "grpc-status" not in answer.headers
    with connected(native.target) as connection:
        assert connection.answer(connection.call(LIVE, framed(b""))).status == OK


def test_health_is_watched_until_the_server_stops(tmp_path: Path) -> None:
    seen: list[int] = []
    ended: list[grpc.StatusCode] = []
    with serving(tmp_path, "--transport", "native", LECTERN_DRAIN_PAUSE_SECONDS="0.5") as server:
        with grpc.insecure_channel(server.target) as channel:
            health = health_pb2_grpc.HealthStub(channel)

            def watch() -> None:
                try:
                    for response in health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT):
                        seen.append(response.status)
                except grpc.RpcError as error:
                    ended.append(error.code())

            watching = threading.Thread(target=watch)
            watching.start()
            wait_until(lambda: bool(seen))
            os.kill(server.pid, signal.SIGTERM)
            watching.join(WAIT)
        assert server.process.wait(WAIT) == 0
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert ended == [grpc.StatusCode.UNAVAILABLE]


def test_a_slow_reader_gets_its_whole_answer_while_the_server_stops(tmp_path: Path) -> None:
    calls = 400
    with serving(tmp_path, "--transport", "native") as server:
        with connected(server.target, window=2**14) as connection:
            stream = connection.call(REFLECT, describe() * calls)
            wait_until(lambda: connection.receive(1) and bool(connection.answers[stream].body))
            os.kill(server.pid, signal.SIGTERM)
            wait_for_log(server, "draining")
            time.sleep(0.5)  # not read from meanwhile
            answer = connection.answer(stream)
        assert connection.told_to_go
        assert (answer.ended, answer.status) == ("end", OK)
        assert len(unframed(answer.body)) == calls
        assert server.process.wait(WAIT) == 0


def start_error(**environment: str) -> str:
    """What a server says that does not start."""
    command = [sys.executable, "-m", "lectern", "serve", "--port", "0", "--metrics-port", "0", "--transport", "native"]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT, env=os.environ | environment
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_without_its_package_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "h2corn.py").write_text("raise ImportError('No module named h2corn')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert "pip install -e '.[native]'" in start_error(PYTHONPATH=path)


def test_refuses_to_serve_tls_in_plaintext(tmp_path: Path) -> None:
    assert "plaintext" in start_error(**Pki.make(tmp_path).settings())
