"""What breaks under a running server: the calls that fail get a clear code, and it recovers by itself.

Also `make chaos`, with every other test that is marked so.
"""

from __future__ import annotations

import concurrent.futures
import importlib.resources
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2

from lectern import Client, LecternError
from tests.conftest import EXPORTED, Server, encode, serving
from tests.runtime.test_lifecycle import MODEL, add_version, versions
from tests.runtime.test_triton import free_ports
from tests.server.test_server import worker_pids
from tests.waiting import WAIT, wait_until

pytestmark = pytest.mark.chaos

SERVICE = "lectern.v1.ClassifyService"
CALLERS = 8


@contextmanager
def load(target: str, image: bytes) -> Iterator[Counter[str]]:
    """Callers with the SDK's retries, for as long as the block lasts; counts how their calls ended."""
    stop, ended = threading.Event(), Counter[str]()

    def call() -> None:
        with Client(target, timeout=WAIT) as client:
            while not stop.is_set():
                try:
                    client.classify_image(image, timeout=WAIT)
                    ended["OK"] += 1
                except LecternError as error:
                    ended[error.code().name] += 1

    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        futures = [pool.submit(call) for _ in range(CALLERS)]
        try:
            yield ended
        finally:
            stop.set()
        for future in futures:
            future.result()


def libfaketime() -> Path:
    """The library that fakes what clock a process sees, from the wheel, which is for Linux on x86-64."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("libfaketime's wheel is for Linux on x86-64")
    return Path(str(importlib.resources.files("libfaketime") / "vendor/libfaketime/src/libfaketime.so.1"))


def goes_on(ended: Counter[str], calls: int = 50) -> None:
    """Wait until that many more calls succeeded."""
    before = ended["OK"]
    wait_until(lambda: ended["OK"] >= before + calls)


def listening(server: Server) -> set[int]:
    """Pids of the workers that take calls."""
    port = int(server.target.rpartition(":")[2])
    return {
        pid
        for pid in worker_pids(server)
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in psutil.Process(pid).net_connections())
    }


def test_killed_workers_are_replaced_and_callers_see_no_error(tmp_path: Path, photos: np.ndarray) -> None:
    with (
        serving(tmp_path, "classify", "--workers", "2") as server,
        load(server.target, encode(photos[0])) as ended,
    ):
        for _ in range(2):
            goes_on(ended)
            killed = min(worker_pids(server))
            os.kill(killed, signal.SIGKILL)
            # The next one is killed only when the new one takes calls: with none left, calls would fail.
            wait_until(lambda killed=killed: len(listening(server) - {killed}) == 2)  # type: ignore[misc]
        goes_on(ended)
    assert set(ended) == {"OK"}


def test_all_workers_killed_at_once_come_back(tmp_path: Path, photos: np.ndarray) -> None:
    with (
        serving(tmp_path, "classify", "--workers", "2") as server,
        load(server.target, encode(photos[0])) as ended,
    ):
        goes_on(ended)
        for pid in worker_pids(server):
            os.kill(pid, signal.SIGKILL)
        goes_on(ended)
    assert set(ended) <= {"OK", "UNAVAILABLE"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: add_version(model.parent, 2, lambda staged: (staged / "model.onnx").write_bytes(b"broken")),
        lambda model: add_version(model.parent, 2, lambda staged: (staged / "card.json").write_text("{")),
        lambda model: add_version(model.parent, 2, lambda staged: (staged / "model.onnx").unlink()),
        lambda model: (model / "2").mkdir(),
        lambda model: (model / "config.pbtxt").write_text("max_batch_size: many"),
        lambda model: (model / "config.pbtxt").unlink(),
    ],
    ids=["corrupt graph", "corrupt card", "no graph", "empty version", "corrupt config", "no config"],
)
def test_damage_in_the_repository_fails_no_call(
    tmp_path: Path, repository: Path, photos: np.ndarray, damage: Callable[[Path], object]
) -> None:
    config = (repository / MODEL / "config.pbtxt").read_text()
    with (
        serving(tmp_path, "classify", repository=repository, LECTERN_WATCH_SECONDS="0.1") as server,
        load(server.target, encode(photos[0])) as ended,
    ):
        goes_on(ended, 10)
        damage(repository / MODEL)
        wait_until(lambda: any(v.reason for v in versions(server).values()))
        goes_on(ended, 10)
        # What repairs it: a good version, and the config as it was.
        (repository / MODEL / "config.pbtxt").write_text(config)
        add_version(repository, 3)
        wait_until(lambda: [v for v, entry in versions(server).items() if not entry.reason] == [3])
        goes_on(ended, 10)
    assert set(ended) == {"OK"}


def test_a_full_disk_under_the_log_stops_nothing(photos: np.ndarray) -> None:
    with serving_to("/dev/full", {"LECTERN_LOG_LEVEL": "debug", "LECTERN_LOG_FORMAT": "json"}) as client:
        for _ in range(20):
            assert len(client.classify_image(encode(photos[0]), timeout=WAIT).results) == 1
        with pytest.raises(LecternError) as caught:
            client.classify_image(b"nothing", timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_clock_jumps_change_nothing(tmp_path: Path, photos: np.ndarray) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    environment = {
        "LD_PRELOAD": str(libfaketime()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with serving_to(str(tmp_path / "log"), environment | {"LECTERN_LOG_LEVEL": "debug"}) as client:
        for jump in ("+3d", "-3d", "+0"):
            offset.write_text(jump)
            for _ in range(10):
                assert len(client.classify_image(encode(photos[0]), timeout=WAIT).results) == 1
            assert client.health("lectern.v1.ClassifyService").status == health_pb2.HealthCheckResponse.SERVING
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert len({record["time"][:10] for record in log}) >= 3, "the server saw three dates"


@contextmanager
def serving_to(log: str, environment: dict[str, str]) -> Iterator[Client]:
    """A server that writes its log to this file, and a client; it must stop cleanly in the end."""
    port, metrics = free_ports(2)
    ports = ["--port", str(port), "--metrics-port", str(metrics), "--repository", str(EXPORTED)]
    command = [sys.executable, "-m", "lectern", "serve", "classify", *ports]
    with open(log, "w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | {"LECTERN_DRAIN_PAUSE_SECONDS": "0"} | environment
        )
    try:
        with Client(f"127.0.0.1:{port}", wait_for_ready=True, timeout=WAIT) as client:
            wait_until(lambda: client.health(SERVICE).status == health_pb2.HealthCheckResponse.SERVING)
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0
    finally:
        process.kill()
        process.wait()
