"""Several engines behind one name, over TLS. Lecterns stand in for Tritons: they speak the same protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from inference import grpc_service_pb2 as pb
from inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from lectern import Client, LecternError
from tests.conftest import Server, serving
from tests.server.nameserver import name_server
from tests.server.pki import Pki
from tests.server.test_addresses import start
from tests.waiting import WAIT, wait_until

NAME, GRAPH = "triton.test", "covid_regressor"
ROW = np.zeros((1, 116), np.float32)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    pki = Pki.make(tmp_path / "pki")
    pki.issue("server", NAME)
    return pki


@pytest.fixture
def engines(pki: Pki, tmp_path: Path) -> Iterator[list[Server]]:
    """Two on one port of two addresses."""
    with socket.create_server(("127.0.0.2", 0)) as probe:
        port = str(probe.getsockname()[1])
    with ExitStack() as stack:
        servers = []
        for host in ("127.0.0.1", "127.0.0.2"):
            (tmp_path / host).mkdir()
            arguments = ("predict", "--host", host, "--port", port)
            servers.append(stack.enter_context(serving(tmp_path / host, *arguments, **pki.settings())))
        yield servers


def answered(server: Server, pki: Pki) -> int:
    """Requests that this engine has answered."""
    options = (("grpc.ssl_target_name_override", NAME),)
    with grpc.secure_channel(server.target, grpc.ssl_channel_credentials(pki.ca.read_bytes()), options) as channel:
        request = pb.ModelStatisticsRequest(name=GRAPH)
        statistics = GRPCInferenceServiceStub(channel).ModelStatistics(request, timeout=WAIT)
    return sum(model.inference_stats.success.count for model in statistics.model_stats)


def test_the_engines_of_a_name_take_turns_and_one_that_dies_is_left_out(
    engines: list[Server], pki: Pki, tmp_path: Path
) -> None:
    hosts, port = zip(*(e.target.split(":") for e in engines), strict=True)
    with name_server(*hosts) as names:
        url = f"dns://127.0.0.1:{names.port}/{NAME}:{port[0]}"
        settings = {"LECTERN_TRITON_TLS_CA": str(pki.ca)}
        with (
            serving(tmp_path, "predict", "--engine", "triton", "--triton-url", url, **settings) as front,
            Client(front.target, timeout=WAIT) as client,
        ):
            wait_until(lambda: turns(client, engines, pki) == [10, 10])  # once both are connected
            engines[1].process.kill()
            engines[1].process.wait()
            wait_until(lambda: answers(client))
            before = answered(engines[0], pki)
            for _ in range(20):
                client.predict(ROW)
            assert answered(engines[0], pki) - before == 20


def turns(client: Client, engines: list[Server], pki: Pki) -> list[int]:
    """How many of 20 calls each engine answered."""
    before = [answered(engine, pki) for engine in engines]
    for _ in range(20):
        client.predict(ROW)
    return [answered(engine, pki) - count for engine, count in zip(engines, before, strict=True)]


def answers(client: Client) -> bool:
    try:
        return bool(client.predict(ROW).results)
    except LecternError:
        return False


def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    result = start("--engine", "triton", "--triton-tls-ca", str(tmp_path / "none.pem"))
    assert result.returncode == 1
    assert "LECTERN_TRITON_TLS_CA cannot be read" in " ".join(result.stderr.split())
