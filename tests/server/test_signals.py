"""SIGTERM and SIGINT at every stage of a server's life, again and again, and under whatever callers do: it ends as it
says it does, and leaves no process behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from tritonclient.grpc import service_pb2

from lectern.cli.failures import INTERRUPTED
from tests.conftest import serving
from tests.graphs import add_graph, burn, burn_config
from tests.programs import needs_native
from tests.server.raw_http2 import connected, framed
from tests.waiting import WAIT, wait_until

pytestmark = pytest.mark.chaos

INFER = "/inference.GRPCInferenceService/ModelInfer"
EXHAUSTED = 8
STOPS, FLOODS = 10, 4
AGAIN = 2
STAGES = 4  # moments of a start at which a signal comes


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_graph(tmp_path / "repository", "burning", burn(), burn_config(8))
    return tmp_path / "repository"


@contextmanager
def flooded_with_refusals(target: str) -> Iterator[None]:
    """Inferences beyond what a client may send, as fast as connections take them, until nobody listens."""
    request = service_pb2.ModelInferRequest(model_name="burning")
    request.inputs.add(name="features", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(bytes(4))
    body, refused, stop = framed(request.SerializeToString()), threading.Semaphore(0), threading.Event()

    def call_on() -> None:
        while not stop.is_set():
            with suppress(OSError), connected(target) as caller:
                while not stop.is_set() and not caller.told_to_go:
                    flush, caller.flush = caller.flush, lambda: None  # type: ignore[method-assign]
                    streams = [caller.call(INFER, body) for _ in range(100)]
                    caller.flush = flush  # type: ignore[method-assign]
                    caller.flush()
                    if caller.answer(streams[-1]).headers.get("grpc-status") == str(EXHAUSTED):
                        refused.release()

    threads = [threading.Thread(target=call_on) for _ in range(FLOODS)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert refused.acquire(timeout=WAIT)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_stops_cleanly_under_a_flood_of_refusals(tmp_path: Path, repository: Path, workers: str) -> None:
    needs_native()
    limit = {"LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND": "0.001", "LECTERN_CLIENT_LIMITS__BURST": "1"}
    for _ in range(STOPS):
        with (
            serving(tmp_path, "predict", "--workers", workers, repository=repository, **limit) as server,
            flooded_with_refusals(server.target),
        ):
            server.process.terminate()
            assert server.process.wait(WAIT) == 0, server.log.read_text()


def serve(directory: Path, repository: Path, workers: str) -> subprocess.Popen[bytes]:
    """A server of which nothing is known yet."""
    ports = ["--port", "0", "--metrics-port", "0", "--workers", workers, "--repository", str(repository)]
    with (directory / "server.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lectern", "serve", "predict", *ports],
            stderr=log,
            stdout=log,
            env=os.environ | {"LECTERN_DRAIN_PAUSE_SECONDS": "0", "LECTERN_LOG_FORMAT": "json"},
        )


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        server = psutil.Process(process.pid)
        return [server, *server.children(recursive=True)]
    return []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_a_start_at_any_moment(
    tmp_path: Path, repository: Path, workers: str, number: signal.Signals
) -> None:
    log, started = tmp_path / "server.log", time.monotonic()
    process = serve(tmp_path, repository, workers)
    wait_until(lambda: '"serving"' in log.read_text())
    whole = time.monotonic() - started
    process.send_signal(number)
    assert process.wait(WAIT) == 0
    for stage in range(STAGES):
        process = serve(tmp_path, repository, workers)
        time.sleep(whole * (stage + 0.5) / STAGES)
        own = family(process)
        process.send_signal(number)
        code = process.wait(WAIT)
        # Python and the system end it in their way until the server has its own.
        assert code in (0, -number, INTERRUPTED), log.read_text()
        assert code == -signal.SIGINT or "Traceback" not in log.read_text()
        psutil.wait_procs(own, WAIT)
        assert not any(p.is_running() for p in own)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_signals_again_and_again_end_it(tmp_path: Path, repository: Path, workers: str, number: signal.Signals) -> None:
    chance = random.Random(0)  # noqa: S311
    for _ in range(AGAIN):
        with serving(tmp_path, "predict", "--workers", workers, repository=repository) as server:
            own = family(server.process)
            while server.process.poll() is None:
                server.process.send_signal(number)
                time.sleep(chance.random() / 10)
            # The second ends it at once, or finds nothing left to end.
            assert server.process.returncode in (0, 1, -number), server.log.read_text()
            assert "Traceback" not in server.log.read_text()
            psutil.wait_procs(own, WAIT)
        assert not any(p.is_running() for p in own)
