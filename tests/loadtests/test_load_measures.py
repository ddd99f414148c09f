"""What a load test computes from times and scrapes, without making a call."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge, Summary, generate_latest
from prometheus_client import Histogram as Measured

from loadtests import scrapes
from loadtests.campaign import Plan, judge, levels
from loadtests.report import chart, html
from loadtests.results import Requests, Result, agreement, point_of
from loadtests.scrapes import Histogram, ScrapeError, ServerSide
from loadtests.search import RateSearch, grows

pytestmark = pytest.mark.unit

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
SERVICE = "lectern.v1.ActService"


class FakeServer:
    """The metrics of a server, which a test observes itself; `page` is a file of them."""

    def __init__(self, path: Any) -> None:
        self.registry, self._path = CollectorRegistry(), path
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self.calls = Measured(scrapes.HANDLING, "", labels, buckets=BOUNDS, registry=self.registry)
        self.codec = Measured("lectern_codec_seconds", "", ("codec",), registry=self.registry)
        self.queue = Measured("lectern_queue_seconds", "", ("model", "version"), registry=self.registry)
        self.graph = Summary("lectern_graph_request_seconds", "", ("model", "version"), registry=self.registry)
        info = Gauge("lectern_model_info", "", ("model", "version", "engine", "provider"), registry=self.registry)
        info.labels("lander", "1", "onnxruntime", "CPUExecutionProvider").set(1)

    def call(self, *seconds: float, method: str = "Act", service: str = SERVICE) -> None:
        for value in seconds:
            self.calls.labels("unary", service, method).observe(value)

    def scrape(self) -> scrapes.Scrape:
        self._path.write_bytes(generate_latest(self.registry))
        return scrapes.scrape(self._path.as_uri())


@pytest.fixture
def server(tmp_path: Any) -> FakeServer:
    server = FakeServer(tmp_path / "metrics")
    server.call(0.2)  # before the test; it must not count
    return server


def test_percentiles_are_those_between_two_scrapes(server: FakeServer) -> None:
    before = server.scrape()
    server.call(*[0.002] * 50, *[0.04] * 50)
    server.call(*[0.09] * 20, service="lectern.v1.TagService", method="TagText")
    counted = ServerSide.between(before, server.scrape())
    assert counted.called([SERVICE]) == 100
    histogram = counted.calls[SERVICE, "Act"]
    assert histogram.quantile(0.5) == pytest.approx(0.0025)  # the 50th call is the last of its bucket
    assert histogram.quantile(0.75) == pytest.approx(0.0375)  # half of what lies between 25 and 50 ms
    assert counted.providers == ("CPUExecutionProvider",)


def test_a_restarted_server_counts_from_its_start(server: FakeServer, tmp_path: Any) -> None:
    server.call(*[0.002] * 50)
    before = server.scrape()
    restarted = FakeServer(tmp_path / "restarted")
    restarted.call(0.002, 0.002)
    assert ServerSide.between(before, restarted.scrape()).called([SERVICE]) == 2


def test_the_mean_call_is_split_into_stages(server: FakeServer) -> None:
    before = server.scrape()
    for _ in range(4):
        server.call(0.010)
        server.codec.labels("image").observe(0.001)
        server.queue.labels("lander", "1").observe(0.002)
        server.graph.labels("lander", "1").observe(0.008)
    split = ServerSide.between(before, server.scrape()).split([SERVICE])
    assert split == pytest.approx(
        {"codec": 0.001, "queue": 0.002, "inference": 0.006, "rest": 0.001, "handling": 0.010}
    )


def test_an_address_without_metrics_is_said(tmp_path: Any) -> None:
    page = tmp_path / "page"
    page.write_text("<h1>something else</h1>")
    with pytest.raises(ScrapeError, match="no metrics of a Lectern server"):
        scrapes.scrape(page.as_uri())
    with pytest.raises(ScrapeError, match="Connection refused"):
        scrapes.scrape("http://127.0.0.1:1/metrics")


def test_the_same_times_agree_whatever_the_buckets_do_to_them(server: FakeServer) -> None:
    """Interpolated percentiles are far from the exact ones here, and still equal on both sides."""
    before, times = server.scrape(), [0.0011] * 90 + [0.0051] * 10
    server.call(*times)
    median, p95 = agreement(times, ServerSide.between(before, server.scrape()), [SERVICE])
    assert (median.exact, p95.exact) == pytest.approx((0.0011, 0.0051))
    assert median.bucketed > 1.5 * median.exact
    assert median.difference == p95.difference == 0
    assert median.agrees


def test_a_client_that_is_slower_than_the_server_does_not_agree(server: FakeServer) -> None:
    before = server.scrape()
    server.call(*[0.002] * 100)
    median, _ = agreement([0.004] * 100, ServerSide.between(before, server.scrape()), [SERVICE])
    assert not median.agrees
    assert median.difference > 0.5


def test_quantiles_beyond_the_last_bound_are_that_bound() -> None:
    assert Histogram.of([5.0, 6.0], BOUNDS).quantile(0.5) == 0.1
    assert Histogram.of([], BOUNDS).quantile(0.5) is None


@pytest.mark.parametrize("capacity", [0.4, 9.0, 480.0])
@pytest.mark.parametrize("guess", [0.1, 1.0, 7.0])
def test_the_search_finds_the_capacity_from_any_guess(capacity: float, guess: float) -> None:
    search, tried = RateSearch(guess * capacity), 0
    while (rate := search.next()) is not None:
        search.tell(rate, rate <= capacity)
        tried += 1
    assert search.passed <= capacity < search.failed <= 1.1 * search.passed
    assert tried < 15


def test_the_search_ends_where_no_rate_passes() -> None:
    search = RateSearch(100.0)
    while (rate := search.next()) is not None:
        search.tell(rate, passed=False)
    assert search.passed == 0


def test_growing_latency_is_told_from_noise() -> None:
    random = np.random.default_rng(0)
    steady = list(random.exponential(0.05, 200))
    queueing = list(np.linspace(0.01, 0.8, 200))
    assert not grows(steady, 0.02)
    assert grows(queueing, 0.02)
    assert not grows([t / 100 for t in queueing], 0.02)  # too short to be a queue


def test_numbers_of_users_double_and_keep_both_ends() -> None:
    assert levels((1, 64), 10) == [1, 2, 4, 8, 16, 32, 64]
    assert levels((3, 20), 10) == [3, 6, 12, 20]
    assert levels((16, 16), 10) == [16]
    for most in range(1, 9):
        some = levels((1, 64), most)
        assert (some[0], some[-1]) == (1, 64)
        assert len(some) == max(2, min(most, 7))
        assert all(a < b for a, b in pairwise(some))


def measured(times: list[float], **changes: Any) -> dict[str, Any]:
    """What the generator answers."""
    call = {"capability": "act", "name": "Act", "times": times, "failures": changes.pop("failures", {})}
    base = {"seconds": 1.0, "client_cpu": 0.2, "machine_cpu": 0.5, "lags": [0.0001], "calls": [call]}
    return base | changes


def test_a_saturated_client_is_said() -> None:
    fine = point_of("sweep", measured([0.01] * 100), None, [SERVICE], users=4)
    assert not fine.saturated
    assert "95% of a core" in point_of("sweep", measured([0.01], client_cpu=0.95), None, [SERVICE]).saturated
    assert "20.0 ms late" in point_of("sweep", measured([0.01], lags=[0.02] * 20), None, [SERVICE]).saturated


def test_calls_without_an_answer_count_as_slow() -> None:
    point = point_of("rate", measured([0.01] * 90, unanswered=[2.0] * 10), None, [SERVICE], offered=100.0)
    assert point.p95 is not None
    assert point.p95 > 1
    assert not point.meets(1.0, 0.0)
    assert (point.answered, point.unanswered) == (90, 10)


def result_of(*points: Any, calls: int = 100) -> Result:
    result = Result("act", ("act",), list(points))
    result.requests["act", "Act"] = Requests("act", "Act", [0.01] * calls)
    return result


Change = Callable[[], tuple[Result, Plan]]
PLAN = {"target": "", "capabilities": ("act",), "p95": 0.2}


@pytest.mark.parametrize(
    ("result", "plan", "missed"),
    [
        (result_of(point_of("sweep", measured([0.01] * 100), None, [SERVICE], 1)), PLAN, None),
        (result_of(calls=0), PLAN, "act made no request"),
        (result_of(point_of("sweep", measured([0.3] * 100), None, [SERVICE], 1)), PLAN, "p95 with 1 user is 300 ms"),
        (
            result_of(point_of("sweep", measured([0.1] * 95, failures={"UNAVAILABLE": 5}), None, [SERVICE], 1)),
            PLAN | {"failures": 0.04},
            r"5 of 100 calls failed \(UNAVAILABLE\); allowed: 4.00%",
        ),
        (
            result_of(
                point_of("sweep", measured([0.1] * 90), None, [SERVICE], 1),
                point_of("rate", measured([], failures={"UNAVAILABLE": 10}), None, [SERVICE], offered=10.0),
            ),
            PLAN,
            r"10 of 100 calls failed \(UNAVAILABLE\)",  # it died while rates were tried
        ),
        (
            result_of(
                point_of("sweep", measured([0.1] * 90), None, [SERVICE], 1),
                point_of("rate", measured([], failures={"RESOURCE_EXHAUSTED": 99}), None, [SERVICE], offered=99.0),
            ),
            PLAN,
            None,
        ),
        (
            result_of(point_of("sweep", measured([0.1] * 100), None, [SERVICE], 1)),
            PLAN | {"rate": 50},
            "0.0 calls a second meet the SLO; wanted: 50",
        ),
    ],
)
def test_thresholds(result: Result, plan: dict[str, Any], missed: str | None) -> None:
    judge(result, Plan(**plan))
    failed = [verdict.text for verdict in result.verdicts if not verdict.passed]
    assert result.passed == (missed is None)
    assert (not failed) if missed is None else re.match(missed, failed[0])


def test_a_chart_keeps_its_points_inside() -> None:
    points = [
        {"kind": kind, "users": 1, "offered": 5.0, "throughput": rate, "p50": p / 2, "p95": p, "saturated": "", **extra}
        for kind, rate, p in [("sweep", 3.0, 0.0004), ("sweep", 900.0, 0.02), ("rate", 870.0, 7.0)]
        for extra in [{"grew": False, "failures": {}}]
    ]
    drawn = chart(points, slo=0.2)
    assert drawn is not None
    for place in (*drawn["curve"], *drawn["probes"]):
        assert drawn["left"] <= place["x"] <= drawn["right"]
        assert drawn["top"] <= place["p95"] <= place["p50"] <= drawn["bottom"]
    assert drawn["probes"][0]["late"]
    assert math.isclose(drawn["across"][-1]["x"], drawn["right"])
    assert chart([], slo=0.2) is None


def test_the_page_escapes_what_a_server_says() -> None:
    found = {
        "target": "<script>alert(1)</script>",
        "time": "2026-01-01T00:00:00+00:00",
        "passed": True,
        "interrupted": True,
        "busy": "",
        "plan": {"p95": 0.2, "together": False},
        "client": {
            "cpu": "x",
            "cores": 2,
            "memory_bytes": 2**30,
            "system": "",
            "python": "",
            "locust": "",
            "lectern": "",
        },
        "same_machine": False,
        "server": {"missing": "<b>bold</b>", "providers": []},
        "left_out": {"act": "<i>no</i>"},
        "capabilities": [],
    }
    page = html(json.loads(json.dumps(found)))
    assert "<script>" not in page
    assert "<b>bold" not in page
    assert "<i>no" not in page
    assert "Stopped before its end" in page
