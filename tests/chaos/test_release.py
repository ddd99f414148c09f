"""One of two servers is replaced while clients call both."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

import lectern
import lectern.aio
from lectern.v1 import model_pb2
from lectern.v1.model_pb2_grpc import ModelServiceStub
from tests.conftest import Server, serving
from tests.waiting import WAIT

CALLERS = 8


def replace(first: Server, answered: list[int]) -> None:
    """Wait until calls flow, stop the server, and let them flow on."""

    def wait_for_more(calls: int) -> None:
        goal = len(answered) + calls
        while len(answered) < goal:
            threading.Event().wait(0.01)

    wait_for_more(200)
    first.process.terminate()
    assert first.process.wait(WAIT) == 0
    wait_for_more(200)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["sync", "aio", "pick_first", "round_robin"])
def test_a_release_fails_no_call(tmp_path: Path, kind: str) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    pause = {"LECTERN_DRAIN_PAUSE_SECONDS": "2"}
    with (
        serving(tmp_path / "first", "predict", **pause) as first,
        serving(tmp_path / "second", "predict", **pause) as second,
    ):
        target = f"ipv4:{first.target},{second.target}"
        answered: list[int] = []
        failures: list[grpc.RpcError] = []
        stop = threading.Event()

        def call_on() -> None:
            with lectern.Client(target) as client:
                while not stop.is_set():
                    try:
                        answered.append(len(client.list_models().models))
                    except grpc.RpcError as error:
                        failures.append(error)

        def call_on_plainly() -> None:
            """As gRPC does without health checks or retries."""
            balancing = ("grpc.service_config", json.dumps({"loadBalancingConfig": [{kind: {}}]}))
            with grpc.insecure_channel(target, options=[balancing]) as channel:
                stub = ModelServiceStub(channel)
                while not stop.is_set():
                    try:
                        answered.append(len(stub.ListModels(model_pb2.ListModelsRequest(), timeout=WAIT).models))
                    except grpc.RpcError as error:
                        failures.append(error)

        async def call_on_asyncio() -> None:
            async with lectern.aio.Client(target) as client:
                while not stop.is_set():
                    try:
                        answered.append(len((await client.list_models()).models))
                    except grpc.RpcError as error:
                        failures.append(error)

        async def many() -> None:
            await asyncio.gather(*(call_on_asyncio() for _ in range(CALLERS)))

        callers: dict[str, list[Callable[[], None]]] = {
            "sync": [call_on] * CALLERS,
            "aio": [lambda: asyncio.run(many())],
        }
        threads = [threading.Thread(target=run) for run in callers.get(kind, [call_on_plainly] * CALLERS)]
        for thread in threads:
            thread.start()
        try:
            replace(first, answered)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert len(set(answered)) == 1  # as many models each time
