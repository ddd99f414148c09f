"""Many calls, many connections, connections that grow old, callers who do not read: others are served meanwhile."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import hpack
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from tritonclient.grpc import service_pb2, service_pb2_grpc

import lectern
from lectern.channel import channel_options
from lectern.v1 import act_pb2, model_pb2
from lectern.v1.act_pb2_grpc import ActServiceStub
from lectern.v1.model_pb2_grpc import ModelServiceStub
from tests.conftest import Server, serving, whole_lines
from tests.server.nameserver import name_server
from tests.server.pki import make_token
from tests.server.raw_http2 import Answer, Connection, connected, framed
from tests.server.test_server import get, sample
from tests.waiting import WAIT, wait_until

HEADERS, RST_STREAM, SETTINGS, DATA = 1, 3, 4, 0
END_HEADERS, END_STREAM = 4, 1
PAUSE = {"LECTERN_DRAIN_PAUSE_SECONDS": "1"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with little to load."""
    with serving(tmp_path_factory.mktemp("small"), "predict") as server:
        yield server


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def reset_calls(target: str, count: int) -> None:
    """Start calls on one connection and reset each at once, as fast as the socket takes them (CVE-2023-44487)."""
    host, _, port = target.partition(":")
    names = [(":method", "POST"), (":scheme", "http"), (":path", "/lectern.v1.ModelService/ListModels")]
    names += [(":authority", "test"), ("te", "trailers"), ("content-type", "application/grpc")]
    # Never indexed, so that the block is the same for every call.
    block = hpack.Encoder().encode([(name, value, True) for name, value in names], huffman=False)
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        threading.Thread(target=swallow, args=(connection,), daemon=True).start()
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        for start in range(0, count, 100):
            calls = b""
            for stream in range(2 * start + 1, 2 * start + 201, 2):
                calls += frame(HEADERS, END_HEADERS, stream, block)
                calls += frame(DATA, END_STREAM, stream, bytes(5))
                calls += frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            try:
                connection.sendall(calls)
            except OSError:  # the server has had enough of it
                return


def swallow(connection: socket.socket) -> None:
    try:
        while connection.recv(2**16):
            pass
    except OSError:
        pass


def test_calls_reset_as_fast_as_they_are_made_disturb_nobody(small: Server) -> None:
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(small.target) as channel:
        stub = ModelServiceStub(channel)
        stub.ListModels(model_pb2.ListModelsRequest(), timeout=WAIT)
        attack = threading.Thread(target=reset_calls, args=(small.target, 60_000))
        attack.start()
        while attack.is_alive() or codes.total() < 25:
            codes[stub.ListModels.future(model_pb2.ListModelsRequest(), timeout=WAIT).code().name] += 1
    assert set(codes) == {"OK"}


@pytest.mark.parametrize("connections", [1, 20])
async def test_thousands_of_calls_at_once_are_all_answered(small: Server, connections: int) -> None:
    channels = [
        grpc.aio.insecure_channel(small.target, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(connections)
    ]
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
    calls = [stubs[i % connections].ServerLive(service_pb2.ServerLiveRequest(), timeout=WAIT) for i in range(6000)]
    codes = Counter([await call.code() for call in calls])
    assert codes == {grpc.StatusCode.OK: 6000}
    for channel in channels:
        await channel.close()


def test_more_calls_than_a_process_takes_are_told_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, "predict", LECTERN_LIMITS__CALLS="3") as server:
        with grpc.insecure_channel(server.target) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            ended = threading.Event()

            def silent() -> Iterator[service_pb2.ModelInferRequest]:
                yield service_pb2.ModelInferRequest(model_name="nobody")
                ended.wait(WAIT)

            streams = [stub.ModelStreamInfer(silent(), timeout=WAIT) for _ in range(3)]
            for stream in streams:
                next(stream)
            with pytest.raises(grpc.RpcError) as caught:
                stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=WAIT)
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT)
            ended.set()
            for stream in streams:
                assert list(stream) == []
            assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=WAIT).live
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "3 calls are under way" in (caught.value.details() or "")
        (detail,) = rpc_status.from_call(caught.value).details
        assert detail.Unpack(error_details_pb2.RetryInfo())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        labels = {"grpc_method": "ServerLive", "grpc_code": "RESOURCE_EXHAUSTED"}
        assert sample(get(f"{server.metrics_url}/metrics"), "grpc_server_handled_total", **labels) == 1


@pytest.mark.chaos
def test_a_server_that_is_added_to_dns_gets_calls(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    age = {"LECTERN_MAX_CONNECTION_AGE_SECONDS": "1"}
    with (
        name_server("127.0.0.1") as names,
        serving(tmp_path / "first", "predict", **age) as first,
    ):
        port = first.target.rpartition(":")[2]
        # gRPC asks again after half a minute at the soonest, unless told otherwise.
        options = [*channel_options(None), ("grpc.dns_min_time_between_resolutions_ms", 100)]
        target = f"dns://127.0.0.1:{names.port}/lectern.test:{port}"
        with grpc.insecure_channel(target, options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            def call() -> None:
                assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=WAIT).live

            call()
            arguments = ("predict", "--host", "127.0.0.2", "--port", port)
            with serving(tmp_path / "second", *arguments, **age) as second:
                names.addresses.append("127.0.0.2")

                def second_was_asked() -> bool:
                    call()
                    metrics_url = second.metrics_url.replace("127.0.0.1", "127.0.0.2")
                    return 'grpc_server_handled_total{grpc_code="OK",grpc_method="ServerLive"' in get(
                        f"{metrics_url}/metrics"
                    )

                wait_until(second_was_asked)
                names.addresses.remove("127.0.0.2")
                time.sleep(2)  # two ages: the second is not asked any more, and may stop
                call()
            call()


@pytest.mark.chaos
def test_a_caller_who_knew_one_server_finds_the_others_when_it_stops(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with name_server("127.0.0.1") as names, serving(tmp_path / "first", "predict", **PAUSE) as first:
        port = first.target.rpartition(":")[2]
        target = f"dns://127.0.0.1:{names.port}/lectern.test:{port}"
        options = [*channel_options(None), ("grpc.enable_retries", 0)]  # which would hide what is lost
        with grpc.insecure_channel(target, options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            def code() -> grpc.StatusCode:
                return stub.ServerLive.future(service_pb2.ServerLiveRequest(), timeout=WAIT).code()

            assert code() is grpc.StatusCode.OK
            with serving(tmp_path / "second", "predict", "--host", "127.0.0.2", "--port", port):
                names.addresses[:] = ["127.0.0.2"]
                first.process.terminate()
                codes: Counter[grpc.StatusCode] = Counter()
                while first.process.poll() is None:
                    codes[code()] += 1
                    time.sleep(0.01)
                assert not codes.keys() - {grpc.StatusCode.OK}, codes


async def test_connections_that_grow_old_lose_no_call(tmp_path: Path) -> None:
    with serving(tmp_path, "predict", LECTERN_MAX_CONNECTION_AGE_SECONDS="0.3") as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            end = time.monotonic() + 2
            while time.monotonic() < end:
                calls = [stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=WAIT) for _ in range(10)]
                assert {await call.code() for call in calls} == {grpc.StatusCode.OK}
                await asyncio.sleep(0.01)


def test_a_call_that_crosses_the_goaway_is_answered(tmp_path: Path) -> None:
    live = "/inference.GRPCInferenceService/ServerLive"
    with serving(tmp_path, "predict", **PAUSE) as server, connected(server.target) as connection:
        assert connection.answer(connection.call(live, framed(b""))).status == 0
        server.process.terminate()
        while not connection.told_to_go:
            connection.receive(WAIT)
        crossing = connection.call(live, framed(b""))
        with connected(server.target) as late:  # by a caller who knows of no other server yet
            assert late.answer(late.call(live, framed(b""))).status == 0
        assert connection.answer(crossing).status == 0
        connection.socket.close()
        assert server.process.wait(WAIT) == 0
    assert all(line.startswith("{") for line in whole_lines(server.log))  # gRPC has nothing to complain of


RUN_EPISODE = "/lectern.v1.ActService/RunEpisode"


def begin_unread(connection: Connection, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """An episode whose pictures are not read beyond the first hundred bytes, or its refusal."""
    message = act_pb2.RunEpisodeRequest(frame_every=1).SerializeToString()
    stream = connection.call(RUN_EPISODE, framed(message), headers=headers)
    answer = connection.answers[stream]
    deadline = time.monotonic() + WAIT
    while not (answer.body or answer.ended) and time.monotonic() < deadline:
        connection.receive(0.1, read=False)
    return answer


def test_a_stream_whose_reader_stalls_ends_and_frees_its_place(tmp_path: Path) -> None:
    limits = {"LECTERN_LIMITS__EPISODES": "1", "LECTERN_READER_TIMEOUT_SECONDS": "1"}
    with (
        serving(tmp_path, "act", **limits) as server,
        connected(server.target, window=100) as connection,
        grpc.insecure_channel(server.target) as channel,
    ):
        stalled = begin_unread(connection)
        assert stalled.body
        assert not stalled.ended
        stub = ActServiceStub(channel)
        short = act_pb2.RunEpisodeRequest(max_steps=1)

        def has_place() -> bool:
            try:
                return len(list(stub.RunEpisode(short, timeout=WAIT))) == 1
            except grpc.RpcError:
                return False

        wait_until(has_place)
        ended = [r for r in server.log_records() if "its reader took nothing for 1 s" in str(r["message"])]
        assert [r["code"] for r in ended] == ["RESOURCE_EXHAUSTED"]
        assert not [r for r in server.log_records() if r["level"] == "ERROR"]


def test_unread_streams_leave_places_to_other_clients(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    greedy, other = (make_token(file, name, "--scope", "act") for name in ("greedy", "other"))
    with (
        serving(tmp_path, "act", "--tokens", str(file)) as server,
        connected(server.target, window=100) as connection,
    ):
        headers = [("authorization", f"Bearer {greedy}")]
        answers = [begin_unread(connection, headers) for _ in range(8)]
        assert [bool(answer.body) for answer in answers] == [True] * 4 + [False] * 4
        assert {answer.status for answer in answers[4:]} == {grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
        with lectern.Client(server.target, token=other) as client:
            assert len(list(client.run_episode(1, max_steps=3))) == 3
