"""Queues under pressure: cancelled and late requests cost nothing, neighbours are not disturbed, priorities hold."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from lectern import Client
from tests.conftest import Server, serving
from tests.graphs import add_graph, burn, burn_config
from tests.server.test_server import get, sample
from tests.waiting import wait_until

BURNS = {
    "one_by_one": burn_config(1),
    "gathered": burn_config(8, "dynamic_batching { max_queue_delay_microseconds: 300000 }"),
    "prioritised": burn_config(
        1,
        """dynamic_batching {
            priority_levels: 2 default_priority_level: 2
            priority_queue_policy { key: 2 value { max_queue_size: 5 } }
        }""",
    ),
    "impatient": burn_config(
        1,
        """dynamic_batching {
            default_queue_policy { default_timeout_microseconds: 500000 allow_timeout_override: true }
        }""",
    ),
}


@pytest.fixture(scope="module")
def burning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of graphs that take as long as they are told to."""
    directory = tmp_path_factory.mktemp("burning")
    for name, config in BURNS.items():
        add_graph(directory / "repository", name, burn(), config)
    with serving(directory, "predict", repository=directory / "repository") as server:
        yield server


@pytest.fixture
def burner(burning: Server) -> Iterator[Burner]:
    with grpc.insecure_channel(burning.target) as channel:
        yield Burner(channel)


class Burner:
    """Calls of the burning graphs; `ended` lists labels in the order in which their answers came."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = GRPCInferenceServiceStub(channel)
        self.ended: list[str] = []

    def __call__(
        self, graph: str, rounds: list[int], label: str = "", timeout_seconds: float = 60, **parameters: int
    ) -> grpc.Future:
        request = oip.ModelInferRequest(model_name=graph)
        request.inputs.add(name="features", datatype="FP32", shape=[len(rounds), 1]).contents.fp32_contents.extend(
            rounds
        )
        for name, value in parameters.items():
            request.parameters[name].int64_param = value
        call = self._stub.ModelInfer.future(request, timeout=timeout_seconds)
        call.add_done_callback(lambda _: self.ended.append(label))
        return call


@contextmanager
def busy(server: Server, burner: Burner, graph: str) -> Iterator[None]:
    """The graph's one instance is kept at work for as long as the block lasts."""
    before = batches(server, graph)
    running = burner(graph, [99_999], "busy")
    wait_until(lambda: batches(server, graph) == before + 1)
    yield
    assert not running.done()
    running.cancel()


def batches(server: Server, graph: str) -> float:
    return sample(get(f"{server.metrics_url}/metrics"), "lectern_batch_size_count", model=graph, version="1")


def depth(server: Server, graph: str) -> float:
    return sample(get(f"{server.metrics_url}/metrics"), "lectern_queue_depth", model=graph, version="1")


def rejected(server: Server, graph: str, reason: str) -> float:
    metrics = get(f"{server.metrics_url}/metrics")
    labels = {"model": graph, "reason": reason}
    return sample(metrics, "lectern_rejected_total", **labels) if f'model="{graph}",reason="{reason}"' in metrics else 0


def rounds_of(call: grpc.Future) -> list[float]:
    return np.frombuffer(call.result().raw_output_contents[0], np.float32).tolist()


def test_cancelled_calls_leave_the_queue_and_end_their_run(burning: Server, burner: Burner) -> None:
    before, cancelled = batches(burning, "one_by_one"), rejected(burning, "one_by_one", "cancelled")
    with busy(burning, burner, "one_by_one"):
        calls = [burner("one_by_one", [1, 1]) for _ in range(20)]
        wait_until(lambda: depth(burning, "one_by_one") == 20)
        for call in calls:
            call.cancel()
        wait_until(lambda: depth(burning, "one_by_one") == 0)
    assert rounds_of(burner("one_by_one", [1])) == [1]
    assert rejected(burning, "one_by_one", "cancelled") == cancelled + 20
    assert batches(burning, "one_by_one") == before + 2
    assert not [r for r in burning.log_records() if r["level"] == "ERROR"]


def test_a_deadline_ends_a_run_that_nobody_else_waits_for(burning: Server, burner: Burner) -> None:
    endless = burner("one_by_one", [99_999], timeout_seconds=0.5)
    assert endless.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert rounds_of(burner("one_by_one", [1])) == [1]  # there is one instance
    assert not [r for r in burning.log_records() if r["level"] == "ERROR"]


def test_a_large_request_does_not_hold_up_a_small_one(burning: Server, burner: Burner) -> None:
    before = batches(burning, "one_by_one")
    large = burner("one_by_one", [20] * 30, "large")
    wait_until(lambda: batches(burning, "one_by_one") > before)
    small = burner("one_by_one", [1], "small")
    assert rounds_of(small) == [1]
    assert not large.done()
    assert rounds_of(large) == [20] * 30


def test_the_first_priority_goes_first(burning: Server, burner: Burner) -> None:
    with busy(burning, burner, "prioritised"):
        waiting = [burner("prioritised", [1], "default") for _ in range(4)]
        wait_until(lambda: depth(burning, "prioritised") == 4)
        waiting += [burner("prioritised", [1], "first", priority=1) for _ in range(4)]
        wait_until(lambda: depth(burning, "prioritised") == 8)
    for call in waiting:
        call.result()
    wait_until(lambda: len(burner.ended) == 9)
    assert burner.ended == ["busy"] + ["first"] * 4 + ["default"] * 4


def test_a_client_has_a_priority(burning: Server, burner: Burner) -> None:
    ended: list[int] = []

    def predict(priority: int) -> None:
        with Client(burning.target, priority=priority) as client:
            client.predict([[1.0]], model="prioritised", timeout=60)
        ended.append(priority)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        with busy(burning, burner, "prioritised"):
            calls = [pool.submit(predict, 2)]
            wait_until(lambda: depth(burning, "prioritised") == 1)
            calls.append(pool.submit(predict, 1))
            wait_until(lambda: depth(burning, "prioritised") == 2)
        for call in calls:
            call.result()
    assert ended == [1, 2]


def test_each_priority_has_its_own_bound(burning: Server, burner: Burner) -> None:
    with busy(burning, burner, "prioritised"):
        waiting = [burner("prioritised", [1]) for _ in range(5)]
        wait_until(lambda: depth(burning, "prioritised") == 5)
        with pytest.raises(grpc.RpcError) as refused:
            burner("prioritised", [1]).result()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.append(burner("prioritised", [1], priority=1))
    assert all(rounds_of(call) == [1] for call in waiting)


def test_a_request_waits_no_longer_than_its_queue_allows(burning: Server, burner: Burner) -> None:
    with busy(burning, burner, "impatient"):
        late = [burner("impatient", [1], timeout=microseconds) for microseconds in (0, 5000, 10**9)]
        wait_until(lambda: depth(burning, "impatient") == 3)
        time.sleep(0.6)
    assert {call.exception().code() for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert rounds_of(burner("impatient", [1])) == [1]


def test_bad_queueing_parameters_are_refused(burner: Burner) -> None:
    for parameters in ({"priority": -1}, {"timeout": -1}, {"sequence_id": 7}):
        with pytest.raises(grpc.RpcError) as refused:
            burner("one_by_one", [1], **parameters).result()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert next(iter(parameters)) in (refused.value.details() or "")


def test_one_bad_input_does_not_fail_its_batch(burning: Server, burner: Burner) -> None:
    before = batches(burning, "gathered")
    good = [burner("gathered", [i]) for i in range(1, 4)]
    bad = burner("gathered", [-500_000])
    assert [rounds_of(call) for call in good] == [[1], [2], [3]]
    assert bad.exception().code() is grpc.StatusCode.INVALID_ARGUMENT
    # All four, two halves, and the two of the half that failed.
    assert batches(burning, "gathered") == before + 5


def test_a_flooded_model_leaves_the_others_their_share(burner: Burner) -> None:
    flood = [burner("one_by_one", [10]) for _ in range(200)]
    for _ in range(10):
        assert rounds_of(burner("gathered", [1] * 8)) == [1] * 8
    # Ten rounds were answered; first come, first served, all 200 calls of ten rounds would have been before them.
    assert not all(call.done() for call in flood)
    for call in flood:
        call.cancel()
