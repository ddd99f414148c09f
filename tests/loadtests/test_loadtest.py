"""`lectern loadtest` against real servers: reports, thresholds and exit codes, Ctrl-C, errors that say what to do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest

from lectern.v1 import act_pb2
from loadtests.campaign import Generator, Plan
from loadtests.results import point_of
from services.act import CAPABILITY as ACT
from tests.conftest import ROOT, Server, serving
from tests.lectern.test_cli import refused
from tests.programs import missing
from tests.server.pki import Pki, make_token
from tests.waiting import WAIT

SERVED = ("act", "detect_anomaly")
BRIEF = ("--seconds", "3", "--users", "1:4", "--p95", "60s")

LoadTest = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def locust() -> str:
    """A Python that has locust: this one, or that of `make loadtest`."""
    own = ROOT / ".venv-load" / "bin" / "python"
    if find_spec("locust"):
        return sys.executable
    return str(own) if own.exists() else missing("locust", "make .venv-load/.installed")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("small"), *SERVED, LECTERN_LIMITS__EPISODES="64") as server:
        yield server


def command(python: str, target: str, *arguments: object) -> list[str]:
    return [python, "-m", "lectern", "loadtest", "--target", target, *map(str, arguments)]


@pytest.fixture
def loadtest(locust: str, small: Server, tmp_path: Path) -> LoadTest:
    """Run it and take what it printed; the reports are in `tmp_path`."""

    def run(*arguments: object, target: str = small.target, **environment: str) -> subprocess.CompletedProcess[bytes]:
        given = command(locust, target, "--output", tmp_path, *arguments)
        if "--metrics" not in arguments:
            given += ["--metrics", f"{small.metrics_url}/metrics"]
        return subprocess.run(given, capture_output=True, timeout=WAIT, cwd=ROOT, env=os.environ | environment)

    return run


def report(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "report.json").read_text()))


def test_a_curve_and_the_highest_rate_of_each_capability(loadtest: LoadTest, tmp_path: Path) -> None:
    done = loadtest(*BRIEF, "--seconds", "6")
    assert done.returncode == 0, done.stderr
    found = report(tmp_path)
    assert [c["name"] for c in found["capabilities"]] == list(SERVED)
    assert set(found["left_out"]) > {"classify", "translate"}  # of which nobody was asked for
    for capability in found["capabilities"]:
        curve = [point for point in capability["points"] if point["kind"] == "sweep"]
        assert [curve[0]["users"], curve[-1]["users"]] == [1, 4]
        assert all(point["answered"] and point["p95"] for point in curve)
        assert all(point["client_cpu"] > 0 for point in curve)
        assert any(point["kind"] == "rate" for point in capability["points"])
        assert capability["highest_rate"]["rate"] > 0
        # The server counts the same calls, give or take those at the edges.
        assert all(point["server_calls"] >= 0.5 * point["answered"] for point in curve)
        for point in curve:
            split = point["split"]
            assert split["inference"] > 0
            assert sum(split[s] for s in ("codec", "queue", "inference", "rest")) >= 0.99 * split["handling"]
            assert [a["quantile"] for a in point["agreement"]] == [0.5, 0.95]
    text = done.stdout.decode()
    assert re.search(r"p50: locust .* in Prometheus' buckets\), Prometheus .*%", text)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == len(SERVED)
    assert not re.search(r"(src|href)=.?(https?:)?//", page)  # it needs nothing else


def test_few_users_still_call_everything(loadtest: LoadTest, tmp_path: Path) -> None:
    done = loadtest(*BRIEF, "--together", "--users", "1", *(f"--capability={name}" for name in SERVED))
    assert done.returncode == 0, done.stderr
    (found,) = report(tmp_path)["capabilities"]
    assert {request["capability"] for request in found["requests"] if request["answered"]} == set(SERVED)


def test_a_ramp_has_ever_more_users(loadtest: LoadTest, tmp_path: Path) -> None:
    done = loadtest(*BRIEF, "--ramp", "--no-search", "--capability", "act", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = report(tmp_path)["capabilities"]
    assert [(point["kind"], point["users"]) for point in found["points"]] == [("ramp", n) for n in (1, 2, 3, 4)]
    assert json.loads(done.stdout)["capabilities"][0]["name"] == "act"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--p95", "1us", "--no-search"), "allowed: 0.001 ms"),
        (("--rate", "1000000"), "calls a second meet the SLO; wanted: 1e+06"),
    ],
)
def test_a_threshold_that_is_missed_is_an_exit_code(loadtest: LoadTest, arguments: tuple[str, ...], says: str) -> None:
    refused_by = loadtest(*BRIEF, *arguments, "--capability", "act")
    assert refused_by.returncode == 1
    assert says in refused_by.stdout.decode()


def test_ctrl_c_writes_what_was_measured(locust: str, small: Server, tmp_path: Path) -> None:
    given = command(
        locust, small.target, "--capability", "act", "--seconds", "600", "--users", "1:2", "--output", tmp_path
    )
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "no split of time" in line)  # from here it makes calls
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 130, errors
    assert "stopped by Ctrl-C" in errors
    found = report(tmp_path)
    assert found["interrupted"]
    assert "Stopped before its end" in (tmp_path / "report.html").read_text()
    assert "act" in output


def test_wrong_usage_says_what_to_write(loadtest: LoadTest) -> None:
    refused(loadtest("--capability", "clasify"), 2, "no capability is called clasify: did you mean classify?")
    refused(loadtest("--users", "64:1"), 2, "no range of users: write 1:64")
    refused(loadtest("--users", "1:5000"), 2, "at most 1000")
    refused(loadtest("--p95", "fast"), 2, "no duration: write 200ms")
    refused(loadtest("--rate", "5", "--no-search"), 2, "--no-search")


def test_a_place_that_cannot_be_written_to_is_said_at_once(loadtest: LoadTest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(loadtest("--output", tmp_path / "file" / "reports"), 1, "Not a directory")


def test_a_server_that_cannot_be_used_says_why(loadtest: LoadTest) -> None:
    refused(loadtest(target="127.0.0.1:1"), 1, "no server at 127.0.0.1:1: start one with `lectern serve`")
    refused(loadtest("--capability", "explain"), 1, "ExplainService")


def test_without_metrics_there_is_no_split(loadtest: LoadTest, tmp_path: Path) -> None:
    done = loadtest(*BRIEF, "--no-search", "--capability", "act", "--metrics", "http://127.0.0.1:1/metrics")
    assert done.returncode == 0, done.stderr
    assert b"no split of time, and no percentiles of the server: http://127.0.0.1:1/metrics" in done.stdout
    (found,) = report(tmp_path)["capabilities"]
    assert not any(point["split"] or point["agreement"] for point in found["points"])


def test_tokens_and_tls(locust: str, tmp_path: Path) -> None:
    pki, tokens = Pki.make(tmp_path / "pki"), tmp_path / "tokens.json"
    token = make_token(tokens, "loader", "--scope", "act")
    with serving(tmp_path, "act", LECTERN_TOKENS=str(tokens), **pki.settings()) as server:
        given = command(locust, server.target, *BRIEF, "--no-search", "--metrics", f"{server.metrics_url}/metrics")
        given += ["--output", str(tmp_path), "--capability", "act", "--tls-ca", str(pki.ca)]

        def run(**environment: str) -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(given, capture_output=True, timeout=WAIT, cwd=ROOT, env=os.environ | environment)

        refused(run(), 1, "LECTERN_TOKEN")
        refused(run(LECTERN_TOKEN="wrong"), 1, "LECTERN_TOKEN")  # noqa: S106
        done = run(LECTERN_TOKEN=token)
    assert done.returncode == 0, done.stderr
    (found,) = report(tmp_path)["capabilities"]
    assert all(point["answered"] and not point["failures"] for point in found["points"])
    assert token not in (tmp_path / "report.json").read_text() + (tmp_path / "report.html").read_text()


def test_without_locust_it_says_how_to_get_it_but_first_what_is_misspelt(small: Server) -> None:
    program = "import sys; sys.modules['locust'] = None; import lectern.cli as cli; cli.main()"
    given = [sys.executable, "-c", program, "loadtest", "--target", small.target]
    for more, code, says in (
        ([], 1, "run `make .venv-load/.installed`"),
        (["--capability", "clasify"], 2, "mean classify?"),
    ):
        refused(subprocess.run([*given, *more], capture_output=True, timeout=WAIT, cwd=ROOT), code, says)


class Stalling:
    """An ActService that answers at once, but for one stall of so many seconds after its first calls."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._lock, self._calls = seconds, threading.Lock(), 0

    def answer(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        with self._lock:  # others wait for it, as for an event loop that is blocked
            self._calls += 1
            if self._calls == 20:
                time.sleep(self._seconds)
        return act_pb2.ActResponse().SerializeToString()

    def stream(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield self.answer(request, context)


def test_a_stall_is_not_left_out(locust: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinated omission: while the server stalls, one user misses one answer, but at a rate all calls are late."""
    monkeypatch.setattr(sys, "executable", locust)
    stall, rate, seconds, p95 = 1.5, 100.0, 3.0, {}
    for how in ("users", "rate"):
        stalling = Stalling(stall)
        handlers = {"Act": grpc.unary_unary_rpc_method_handler(stalling.answer)}
        handlers |= {"RunEpisode": grpc.unary_stream_rpc_method_handler(stalling.stream)}
        server = grpc.server(ThreadPoolExecutor(100))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ACT.service.full_name, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with Generator(Plan(f"127.0.0.1:{port}", ("act",))) as generator:
            if how == "users":
                generator.ask("load", capabilities=["act"], users=1, over=0)
                found = generator.ask("measure", seconds, least=1)
            else:
                found = generator.ask("offer", seconds, capabilities=["act"], users=64, rate=rate, grace=1.0)
        server.stop(None)
        p95[how] = point_of("sweep", found, None, [ACT.service.full_name]).p95
    assert p95["users"] < stall / 4
    assert p95["rate"] > stall / 2
