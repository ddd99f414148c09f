"""Over grpc.aio a call gets its request id back where somebody can ask for it."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.server import grpc_transport
from services.server.health import HealthServicer
from services.server.pipeline import Endpoint, Gate
from services.server.settings import Settings

CHOSEN = (("x-request-id", "mine"),)
WAIT = 30


async def request_id(service: str, metadata: tuple[tuple[str, str], ...], **settings: str) -> str | None:
    """What comes back from a call of a server with these settings."""
    health = HealthServicer()
    health.set("", True)
    server = grpc_transport.Server(Settings(**settings), None, Gate())  # type: ignore[arg-type]  # strings are parsed
    server.add_endpoints(Endpoint(method, Gate()) for method in health.methods())
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        call = HealthStub(channel).Check(request, metadata=metadata, timeout=WAIT)
        code, trailing = await call.code(), dict(await call.trailing_metadata())
    await server.stop()
    assert code is (grpc.StatusCode.NOT_FOUND if service else grpc.StatusCode.OK)
    return trailing.get("x-request-id")


@pytest.mark.parametrize("service", ["", "missing"])
async def test_the_callers_id_comes_back(service: str) -> None:
    assert await request_id(service, CHOSEN) == "mine"


async def test_a_failure_has_an_id_whether_its_caller_chose_one_or_not() -> None:
    assert len(await request_id("missing", ()) or "") == 32


async def test_a_success_has_an_id_if_it_is_logged() -> None:
    assert await request_id("", ()) is None
    assert len(await request_id("", (), log_level="debug") or "") == 32
