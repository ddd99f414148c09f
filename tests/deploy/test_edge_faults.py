"""What callers of the edge notice of a server that goes away, and of one that answers nothing but errors."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lectern.v1.predict_pb2_grpc import PredictServiceStub
from services.predict import CAPABILITY
from tests.conftest import ROOT, Server, serving
from tests.deploy.envoy import Edge, container, edge
from tests.server.pki import Pki
from tests.waiting import WAIT, wait_until

CALLS = int(os.environ.get("EDGE_CALLS", "1000"))
CALLERS = 16
EXAMPLE = CAPABILITY.example(ROOT / "docs" / "examples")
DRAIN_PAUSE = {"LECTERN_DRAIN_PAUSE_SECONDS": "2"}  # as deployed


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.make(tmp_path / "pki")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        directories = [tmp_path / name for name in ("first", "second")]
        for directory in directories:
            directory.mkdir()
        yield [stack.enter_context(serving(directory, "predict", **DRAIN_PAUSE)) for directory in directories]


@pytest.mark.chaos
@pytest.mark.parametrize(("sign", "losses"), [(signal.SIGTERM, 0), (signal.SIGKILL, 2)])
def test_a_server_that_ends_costs_hardly_a_call(
    servers: list[Server], pki: Pki, tmp_path: Path, sign: signal.Signals, losses: int
) -> None:
    with edge(tmp_path, [server.target for server in servers], pki, "predict") as front:
        codes = asyncio.run(load(front, pki, CALLS, {CALLS // 4: lambda: servers[0].process.send_signal(sign)}))
        wait_until(lambda: servers[0].process.poll() is not None)
        assert codes.total() == CALLS
        assert CALLS - codes[grpc.StatusCode.OK] <= losses, codes
        assert front.of_cluster("membership_healthy", "predict") == 1


async def load(
    front: Edge, pki: Pki, calls: int, events: dict[int, Callable[[], None]], options: Sequence[tuple[str, str]] = ()
) -> Counter[grpc.StatusCode]:
    """Codes of calls that callers side by side make one after the other; an event comes before the call of its number.

    The callers are as gRPC makes them: they send a call again only if the edge never took it, as on a connection that
    is just being closed. Every other failure is one that the edge lets through.
    """
    codes: Counter[grpc.StatusCode] = Counter()
    numbers = iter(range(calls))
    credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes())

    async def call_on(stub: PredictServiceStub) -> None:
        for number in numbers:
            events.get(number, lambda: None)()
            try:
                await stub.Predict(EXAMPLE, timeout=WAIT)
                codes[grpc.StatusCode.OK] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code()] += 1

    async with grpc.aio.secure_channel(front.target, credentials, options) as channel:
        await asyncio.gather(*(call_on(PredictServiceStub(channel)) for _ in range(CALLERS)))
    return codes


class Healthy(health_pb2_grpc.HealthServicer):
    """Says that every service answers."""

    def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class Refusing(grpc.GenericRpcHandler):
    """Ends every call with one code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(self._code, "as the test says"))


@contextmanager
def refusing(code: grpc.StatusCode) -> Iterator[str]:
    """The address of a server that is healthy and refuses every call."""
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        health_pb2_grpc.add_HealthServicer_to_server(Healthy(), server)
        server.add_generic_rpc_handlers((Refusing(code),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK),  # tried again at the other
        (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_a_server_that_refuses_calls_stays_and_its_refusals_pass(
    pki: Pki, tmp_path: Path, code: grpc.StatusCode, seen: grpc.StatusCode
) -> None:
    with (
        refusing(code) as refuser,
        serving(tmp_path, "predict") as server,
        edge(tmp_path, [server.target, refuser], pki, "predict") as front,
    ):
        codes = asyncio.run(load(front, pki, 200, {}))
        assert set(codes) == {grpc.StatusCode.OK, seen}
        assert front.of_cluster("outlier_detection_ejections_enforced_total", "predict") == 0


@pytest.mark.chaos
def test_an_edge_that_is_about_to_end_sends_its_callers_away_without_a_loss(
    servers: list[Server], pki: Pki, tmp_path: Path
) -> None:
    """By the command of its preStop hook: connections are closed as their calls end, and new ones are still taken."""
    with edge(tmp_path, [server.target for server in servers], pki, "predict") as front:
        *shell, script = container()["lifecycle"]["preStop"]["exec"]["command"]
        script = script.replace("9901", str(front.admin_port)).replace("sleep 25", "head -1 <&3")
        answers: list[bytes] = []

        def stop() -> None:
            answers.append(subprocess.run([*shell, script], capture_output=True, timeout=WAIT).stdout)

        codes = asyncio.run(load(front, pki, CALLS, {CALLS // 4: stop}))
        assert b"200 OK" in answers[0]
        assert codes == {grpc.StatusCode.OK: CALLS}
        connections = next(
            x for x in front.metrics() if x.startswith("envoy_http_downstream_cx_total") and '"edge"' in x
        )
        assert int(connections.rpartition(" ")[2]) >= 2


def test_servers_that_ask_for_certificates_are_called_with_the_edges(pki: Pki, tmp_path: Path) -> None:
    """As with the component `secure`, whose Secret holds one certificate for both sides."""
    name = "lectern-predict.lectern"
    pki.issue("server", name)
    with (
        serving(tmp_path, "predict", **pki.settings(mutual=True)) as server,
        edge(tmp_path, [server.target], pki, "predict", "clusters-tls.yaml") as front,
    ):
        codes = asyncio.run(load(front, pki, 20, {}, [("grpc.ssl_target_name_override", name)]))
        assert codes == {grpc.StatusCode.OK: 20}
