"""`--workers N` under operators' signals and what befalls processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from lectern import Client
from services.server.supervisor import POLL_SECONDS, Pulse
from tests.conftest import Server, serving
from tests.graphs import add_graph, burn, burn_config
from tests.server.test_server import worker_pids
from tests.waiting import wait_until


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_graph(tmp_path / "repository", "burning", burn(), burn_config(1))
    return tmp_path / "repository"


def answers(server: Server) -> bool:
    with Client(server.target) as client:
        return len(client.predict([[1.0]], model="burning", timeout=20).results) == 1


@pytest.mark.chaos
def test_a_signal_while_a_worker_is_replaced_stops_them_all(tmp_path: Path, repository: Path) -> None:
    with serving(tmp_path, "predict", "--workers", "2", repository=repository) as server:
        supervisor = psutil.Process(server.pid)
        workers = worker_pids(server)
        os.kill(min(workers), signal.SIGKILL)
        wait_until(lambda: "starting another" in server.log.read_text())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not supervisor.is_running()


@pytest.mark.chaos
def test_a_signal_reaches_a_worker_that_has_just_been_started(tmp_path: Path, repository: Path) -> None:
    with serving(tmp_path, "predict", "--workers", "2", repository=repository) as server:
        workers = worker_pids(server)
        os.kill(min(workers), signal.SIGKILL)
        wait_until(lambda: bool(worker_pids(server) - workers))
        started = worker_pids(server) - workers
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not any(psutil.pid_exists(pid) for pid in started)


@pytest.mark.chaos
def test_a_worker_that_stands_still_is_replaced(tmp_path: Path, repository: Path) -> None:
    timeout = {"LECTERN_WORKER_TIMEOUT_SECONDS": "3"}
    with serving(tmp_path, "predict", "--workers", "2", repository=repository, **timeout) as server:
        workers = worker_pids(server)
        os.kill(min(workers), signal.SIGSTOP)
        wait_until(lambda: len(worker_pids(server) - workers) == 1)
        assert min(workers) not in worker_pids(server)
        assert answers(server)


@pytest.mark.chaos
def test_a_worker_that_stands_still_does_not_keep_the_server_from_stopping(tmp_path: Path, repository: Path) -> None:
    settings = {"LECTERN_DRAIN_SECONDS": "1"}
    with serving(tmp_path, "predict", "--workers", "2", repository=repository, **settings) as server:
        os.kill(min(worker_pids(server)), signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_silence_is_counted_while_the_supervisor_looks() -> None:
    pulse = Pulse()
    assert pulse.silence(1, POLL_SECONDS) == 0
    assert pulse.silence(1, POLL_SECONDS) == POLL_SECONDS
    assert pulse.silence(1, POLL_SECONDS) == 2 * POLL_SECONDS
    assert pulse.silence(2, POLL_SECONDS) == 0


def test_a_pause_of_the_whole_container_is_no_silence() -> None:
    pulse = Pulse()
    pulse.silence(1, POLL_SECONDS)
    assert pulse.silence(1, 3600.0) == 2 * POLL_SECONDS
