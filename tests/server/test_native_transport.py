"""The native transport where it differs from grpc.aio: gRPC's protocol, misbehaving callers, flow control, drain."""

from __future__ import annotations

import concurrent.futures
import gzip
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2, service_pb2_grpc

import lectern
from lectern.errors import LecternError
from lectern.v1 import classify_pb2, model_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from lectern.v1.model_pb2_grpc import ModelServiceStub
from tests.conftest import ROOT, Server, encode, serving
from tests.programs import needs_native
from tests.server.pki import Pki
from tests.server.raw_http2 import connected, framed, unframed
from tests.server.test_server import get, sample, wait_for_log
from tests.waiting import WAIT, wait_until

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
OK, INVALID, DEADLINE, EXHAUSTED, UNIMPLEMENTED = 0, 3, 4, 8, 12
MESSAGE_BYTES = 2 * 2**20
MB = 2**20


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    needs_native()


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


def failures(server: Server) -> tuple[int, int]:
    """How many failed inferences have a line of their own in the log, and how many it only counts."""
    lines = [str(record["message"]) for record in server.log_records() if record["name"] == "lectern.rpc"]
    counts = [int(line.split()[0]) for line in lines if "more inferences failed" in line]
    return len(lines) - len(counts), sum(counts)


def test_refusals_that_come_faster_than_they_can_be_logged_are_counted(tmp_path: Path) -> None:
    request = service_pb2.ModelInferRequest(model_name="covid_regressor")
    request.inputs.add(name="features", datatype="FP32", shape=[1, 116])
    request.raw_input_contents.append(bytes(4 * 116))
    body = framed(request.SerializeToString())
    limit = {"LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND": "0.001", "LECTERN_CLIENT_LIMITS__BURST": "1"}
    with serving(tmp_path, "predict", "--transport", "native", **limit) as server, connected(server.target) as caller:
        assert caller.answer(caller.call(INFER, body)).status == OK
        flush, caller.flush = caller.flush, lambda: None  # type: ignore[method-assign]  # to send all at once
        refused = [caller.call(INFER, body) for _ in range(200)]
        caller.flush = flush  # type: ignore[method-assign]
        caller.flush()
        assert {caller.answer(stream).status for stream in refused} == {EXHAUSTED}
        wait_until(lambda: sum(failures(server)) == len(refused))
    _, counted = failures(server)
    assert counted


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
        (framed(gzip.compress(b"", mtime=0), compressed=True), [("grpc-encoding", "gzip")], OK),
        (framed(zlib.compress(b""), compressed=True), [("grpc-encoding", "deflate")], OK),
        (framed(zlib.compress(b""), compressed=True), [("grpc-encoding", "gzip")], INVALID),
        (framed(zlib.compress(b"")[:-2], compressed=True), [("grpc-encoding", "deflate")], INVALID),
        (framed(zlib.compress(b""), compressed=True), [("grpc-encoding", "lz99")], UNIMPLEMENTED),
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
        assert connection.answer(stream).status == EXHAUSTED
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


@pytest.mark.parametrize(("cancelled", "ends"), [(2_000, False), (50_000, True)])
def test_a_connection_that_cancels_too_much_is_closed_alone(native: Server, cancelled: int, ends: bool) -> None:
    """Callers with tight deadlines cancel hundreds of calls a second; more look like an attack (CVE-2023-44487)."""
    with connected(native.target) as calm, connected(native.target) as hasty:
        on_calm, on_hasty = (c.call(WATCH, framed(b"")) for c in (calm, hasty))
        try:
            for _ in range(cancelled):
                stream = hasty.call(WATCH, framed(b""))
                hasty.http.reset_stream(stream, 8)
            hasty.flush()
            assert not ends or hasty.answer(on_hasty).ended
        except ConnectionError:
            assert ends  # it was closed before it had sent everything
        for connection, watching in ((calm, on_calm), *(() if ends else ((hasty, on_hasty),))):
            assert connection.answer(connection.call(LIVE, framed(b""))).status == OK
            assert not connection.answers[watching].ended


def test_too_many_headers_are_refused(native: Server) -> None:
    with connected(native.target) as connection:
        answer = connection.answer(connection.call(LIVE, framed(b""), headers=[("x", "a" * 100_000)]))
    assert answer.status == EXHAUSTED
    with connected(native.target) as connection:
        assert connection.answer(connection.call(LIVE, framed(b""))).status == OK


def test_refusals_arrive_also_while_the_server_looks_for_slow_readers(native: Server) -> None:
    """It looks once a second, perhaps between a refusal and its sending."""
    with connected(native.target) as connection:
        flush, end = connection.flush, time.monotonic() + 3
        while time.monotonic() < end:
            connection.flush = lambda: None  # type: ignore[method-assign]  # to send all at once
            refused = [connection.call("/lectern.v1.None/None", framed(b"")) for _ in range(100)]
            connection.flush = flush  # type: ignore[method-assign]
            connection.flush()
            assert {connection.answer(stream).status for stream in refused} == {UNIMPLEMENTED}


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


def test_where_it_is_not_built_it_says_how_to_build_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['services._native'] = None")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert "run `make native`" in start_error(PYTHONPATH=path)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def secured(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("secured")
    with serving(directory, "predict", "--transport", "native", **pki.settings()) as running:
        yield running
        assert not [r for r in running.log_records() if r["level"] == "ERROR"]


def shake_hands(server: Server, context: ssl.SSLContext) -> str | None:
    """The protocol that the two agree on."""
    host, port = server.target.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=WAIT) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        if not secure.recv(1):
            raise ConnectionResetError("the server has hung up")
        return secure.selected_alpn_protocol()


def context_of(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def live(server: Server, pki: Pki) -> bool:
    with lectern.Client(server.target, tls=pki.client(), timeout=WAIT) as client:
        return len(client.list_models().models) > 0


def test_only_http2_is_spoken_over_tls(secured: Server, pki: Pki) -> None:
    assert shake_hands(secured, context_of("http/1.1", "h2")) == "h2"
    for protocols in ((), ("http/1.1",)):
        with pytest.raises(OSError, match=r"hung up|reset|ALERT|alert"):
            shake_hands(secured, context_of(*protocols))
    assert live(secured, pki)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(secured: Server, pki: Pki) -> None:
    old = context_of("h2")
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(secured, old)
    previous = context_of("h2")
    previous.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(secured, previous) == "h2"
    assert live(secured, pki)


def test_plaintext_on_a_tls_port_is_hung_up_on(secured: Server, pki: Pki) -> None:
    host, port = secured.target.split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        with suppress(ConnectionError):
            while raw.recv(2**16):
                pass
    assert live(secured, pki)


def test_handshakes_that_stop_or_swarm_hinder_nobody(secured: Server, pki: Pki) -> None:
    host, port = secured.target.split(":")
    hello = ssl.MemoryBIO()
    begun = context_of("h2").wrap_bio(ssl.MemoryBIO(), hello)
    with suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    first = hello.read()
    with ExitStack() as stack:
        for i in range(1200):  # a handshake that stops at once, after half a message, or after the server's answer
            raw = stack.enter_context(socket.create_connection((host, int(port)), timeout=WAIT))
            raw.sendall(first[: (0, len(first) // 2, len(first))[i % 3]])
        with lectern.Client(secured.target, tls=pki.client(), timeout=WAIT) as client:
            for _ in range(50):
                client.list_models()
    assert live(secured, pki)
