"""`lectern top`: rates, latencies and queues of a server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

import pytest

import lectern
from lectern.cli.rates import Change, Reading, graphs, parsed, quantile, rpcs
from tests.conftest import ROOT, Server
from tests.lectern.test_cli import invoke, refused
from tests.waiting import WAIT

PHOTO = ROOT / "docs" / "examples" / "cat.png"


def metrics(server: Server) -> str:
    return server.metrics_url.removeprefix("http://")


@pytest.fixture
def busy(server: Server):  # type: ignore[no-untyped-def]
    """A client that classifies without a pause, and now and then asks for a model that is not there."""
    stop = threading.Event()

    def ask() -> None:
        with lectern.Client(server.target, timeout=WAIT) as client:
            while not stop.is_set():
                client.classify_image([PHOTO, PHOTO])
                with pytest.raises(lectern.LecternError):
                    client.classify_image(PHOTO, "nobody")

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("busy")
def test_what_a_server_does(server: Server) -> None:
    done = invoke("top", "--metrics", metrics(server), "--json", "--interval", 5)
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    (rpc,) = (one for one in now["rpcs"] if one["method"] == "ClassifyImage")
    assert rpc["calls_per_second"] > rpc["failures_per_second"]["NOT_FOUND"] > 0
    assert 0 < rpc["p50_seconds"] <= rpc["p95_seconds"]
    (graph,) = (one for one in now["graphs"] if one["model"] == "image_classifier")
    assert graph["rows_per_second"] > graph["requests_per_second"] > 0
    assert 0 < graph["run_p50_seconds"] <= graph["run_p95_seconds"]
    assert not [one for one in now["rpcs"] if one["service"].startswith("grpc.")]


@pytest.mark.usefixtures("busy")
def test_one_interval_as_a_table(server: Server) -> None:
    page = invoke("top", "--metrics", metrics(server), "--once", "--interval", 5).stdout.decode()
    assert "Classify.ClassifyImage" in page
    assert "NOT_FOUND" in page
    assert "image_classifier 1" in page


def test_nothing_happens(server: Server) -> None:
    done = invoke("top", "--metrics", metrics(server), "--once", "--interval", 0.2)
    assert "no calls in the last" in done.stdout.decode()


def test_it_goes_on_until_it_is_stopped(server: Server) -> None:
    command = [sys.executable, "-m", "lectern", "top", "--metrics", metrics(server), "--interval", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"requests hold" not in (line := process.stdout.readline()):
            assert line or process.poll() is None, process.stderr and process.stderr.read()
        process.send_signal(2)
        assert process.wait(WAIT) == 130


def test_where_there_are_no_metrics(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
    refused(invoke("top", "--metrics", closed, "--once"), 1, f"no metrics at {closed}", "--metrics")
    refused(invoke("top", "--metrics", server.target, "--once"), 1, "no metrics at")
    refused(invoke("top", "--metrics", "here", "--once"), 2, "write HOST:PORT")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("q", "buckets", "value"),
    [
        (0.5, {1: 0, 2: 0, float("inf"): 0}, None),
        (0.5, {1: 10, 2: 10, float("inf"): 10}, 0.5),
        (0.95, {1: 0, 2: 100, float("inf"): 100}, 1.95),
        (0.95, {1: 0, 2: 50, float("inf"): 100}, 2),
        (0.5, {1: 2, 2: 2, 4: 4, float("inf"): 4}, 1),
    ],
)
def test_a_quantile_is_as_prometheus_takes_it(q: float, buckets: dict[float, float], value: float | None) -> None:
    assert quantile(q, buckets) == (value if value is None else pytest.approx(value))


def reading(seconds: float, requests: int, failures: int, depth: int) -> Reading:
    graph = 'model="own",version="2"'
    return parsed(
        f"""# TYPE lectern_graph_request_seconds summary
lectern_graph_request_seconds_count{{{graph}}} {requests}
# TYPE lectern_graph_failure_seconds summary
lectern_graph_failure_seconds_count{{{graph}}} {failures}
# TYPE lectern_batch_size histogram
lectern_batch_size_sum{{{graph}}} {4 * requests}
lectern_batch_size_count{{{graph}}} {requests}
# TYPE lectern_queue_depth gauge
lectern_queue_depth{{{graph}}} {depth}
""",
        seconds,
    )


@pytest.mark.unit
def test_rates_are_of_the_time_between_two_readings() -> None:
    (graph,) = graphs(Change(reading(10, 100, 5, 0), reading(14, 120, 7, 3)))
    assert (graph["model"], graph["version"], graph["waiting"]) == ("own", 2, 3)
    rates = [graph[f"{what}_per_second"] for what in ("requests", "failures", "rows")]
    assert rates == [5, 0.5, 20]
    assert graph["rows_per_batch"] == 4
    assert not rpcs(Change(reading(10, 100, 5, 0), reading(14, 120, 7, 3)))


@pytest.mark.unit
def test_a_server_that_was_started_again_begins_at_0() -> None:
    (graph,) = graphs(Change(reading(10, 100, 5, 0), reading(12, 6, 0, 0)))
    assert graph["requests_per_second"] == 3
