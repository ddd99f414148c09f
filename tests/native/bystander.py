"""Another client of a server under attack."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import grpc
import psutil
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.native.conftest import Front
from tests.native.wire import infer_request
from tests.waiting import WAIT, wait_until

MB = 2**20
GROWTH = 100 * MB
Record = Callable[[str, object], None]


@dataclass
class Bystander:
    """What another client saw of an attack, and what it cost the server."""

    calls: int = 0
    failures: list[str] = field(default_factory=list)
    worst_seconds: float = 0
    growth: int = 0
    cpu_seconds: float = 0


@contextmanager
def bystander(front: Front, *, new_connections: bool = True) -> Iterator[Bystander]:
    """Another client that calls all the while, by turns on a connection of long standing and on new ones."""
    seen, over = Bystander(), threading.Event()
    process = psutil.Process(front.pid)
    target = f"{front.address[0]}:{front.address[1]}"
    request = infer_request("echo")

    def ask(channel: grpc.Channel) -> None:
        start = time.monotonic()
        try:
            answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=WAIT)
            assert answer.raw_output_contents[0] == request.raw_input_contents[0]
        except grpc.RpcError as error:
            seen.failures.append(f"{error.code().name} {error.details()}")
        seen.worst_seconds = max(seen.worst_seconds, time.monotonic() - start)
        seen.calls += 1

    def call_on() -> None:
        with grpc.insecure_channel(target) as kept:
            while not over.is_set() and len(seen.failures) < 3:
                ask(kept)
                if new_connections and seen.calls % 10 == 0:
                    with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                        ask(channel)
                over.wait(0.005)

    def measure() -> None:
        while not over.is_set():
            with suppress(psutil.NoSuchProcess):
                seen.growth = max(seen.growth, process.memory_info().rss - resident)
            over.wait(0.02)

    resident, before = process.memory_info().rss, process.cpu_times()
    threads = [threading.Thread(target=work) for work in (call_on, measure)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: seen.calls > 5 or bool(seen.failures))
        yield seen
        after = seen.calls + 5
        wait_until(lambda: seen.calls > after or bool(seen.failures))
    finally:
        over.set()
        for thread in threads:
            thread.join()
        with suppress(psutil.NoSuchProcess):
            cpu = process.cpu_times()
            seen.cpu_seconds = cpu.user + cpu.system - before.user - before.system


@contextmanager
def unharmed(front: Front, record: Record, *, new_connections: bool = True) -> Iterator[None]:
    """Asserts after an attack that the server lives, served another client all the while and took little memory."""
    with bystander(front, new_connections=new_connections) as seen:
        yield
    record("growth MB", round(seen.growth / MB, 1))
    record("CPU s", round(seen.cpu_seconds, 2))
    record("worst s", round(seen.worst_seconds, 3))
    record("failures", len(seen.failures))
    assert front.alive, "the server has died"
    assert not seen.failures, seen.failures
    assert seen.growth < GROWTH, f"{seen.growth / MB:.0f} MB more"
