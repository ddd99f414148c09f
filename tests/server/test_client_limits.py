"""How much one client may ask: rate, concurrency, messages of streams; and that the book-keeping is bounded."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

import lectern
from services.errors import ResourceExhausted
from services.server.quota import Allowance, Quota
from tests.conftest import serving
from tests.server.pki import Pki, make_token
from tests.waiting import WAIT

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def ask(client: lectern.Client, times: int) -> list[lectern.LecternError]:
    """The failures of that many calls in a row."""
    failures = []
    for _ in range(times):
        try:
            client.list_models()
        except lectern.LecternError as error:
            failures.append(error)
    return failures


def stream(channel: grpc.Channel, messages: Iterator[service_pb2.ModelInferRequest]) -> Iterator[object]:
    """A call whose every message is answered, with an error: the model is not there."""
    call: Iterator[object] = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(messages, timeout=WAIT)
    return call


@contextmanager
def open_stream(target: str) -> Iterator[None]:
    """An RPC under way until the end of the block."""
    messages: queue.Queue[service_pb2.ModelInferRequest | None] = queue.Queue()
    with grpc.insecure_channel(target) as channel:
        answers = stream(channel, iter(messages.get, None))
        messages.put(service_pb2.ModelInferRequest(model_name="nobody"))
        next(answers)
        yield
        messages.put(None)
        assert list(answers) == []


def test_a_rate_is_refused_with_when_to_come_back(tmp_path: Path) -> None:
    limits = {"LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND": "0.5", "LECTERN_CLIENT_LIMITS__BURST": "5"}
    with serving(tmp_path, "predict", **limits) as server, lectern.Client(server.target, timeout=WAIT) as client:
        failures = ask(client, 20)
        assert 1 <= len(failures) <= 15, "a burst of 5, and what the time that passed allows"
        assert {error.code() for error in failures} == {EXHAUSTED}
        assert "client ipv4:127.0.0.1 may send 0.5 requests per second" in failures[0].details()
        wait = failures[-1].retry_after or 0
        assert 0 < wait <= 2
        time.sleep(wait)
        assert ask(client, 1) == []
        for _ in range(50):
            client.health()  # probes are not counted


def test_messages_of_a_stream_count_against_the_rate(tmp_path: Path) -> None:
    limits = {"LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND": "1", "LECTERN_CLIENT_LIMITS__BURST": "6"}
    with serving(tmp_path, "predict", **limits) as server, grpc.insecure_channel(server.target) as channel:
        answers = stream(channel, iter([service_pb2.ModelInferRequest(model_name="nobody")] * 50))
        received: list[object] = []
        with pytest.raises(grpc.RpcError) as caught:
            received.extend(answers)
    assert caught.value.code() is EXHAUSTED
    assert 5 <= len(received) < 50, "what was within the burst is answered first"
    assert (lectern.LecternError.of(caught.value).retry_after or 0) > 0


def test_rpcs_under_way_are_limited(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "predict", LECTERN_CLIENT_LIMITS__CONCURRENCY="1") as server,
        lectern.Client(server.target, timeout=WAIT) as client,
    ):
        assert ask(client, 5) == []
        with open_stream(server.target):
            (failure,) = ask(client, 1)
            assert failure.code() is EXHAUSTED
            assert "may have 1 RPCs under way" in failure.details()
            assert (failure.retry_after or 0) > 0
        assert ask(client, 5) == []


def test_each_token_has_its_own_limits(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    tokens = {
        "usual": make_token(file, "usual", "--scope", "models"),
        "free": make_token(file, "free", "--scope", "models", "--requests-per-second", "0"),
        "slow": make_token(file, "slow", "--scope", "models", "--requests-per-second", "0.01"),
    }
    settings = {
        "LECTERN_TOKENS": str(file),
        "LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND": "0.05",
        "LECTERN_CLIENT_LIMITS__BURST": "3",
    }
    with serving(tmp_path, "predict", **settings) as server:
        refusals = {}
        for name, token in tokens.items():
            with lectern.Client(server.target, token=token, timeout=WAIT) as client:
                refusals[name] = ask(client, 6)
        assert len(refusals["free"]) == 0
        assert 1 <= len(refusals["usual"]) <= 3
        assert len(refusals["slow"]) == 3
        assert "client slow may send 0.01 requests per second" in refusals["slow"][0].details()


def test_a_certificate_is_a_client(tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    limits = {"LECTERN_CLIENT_LIMITS__REQUESTS_PER_SECOND": "0.01"}
    with serving(tmp_path, "predict", **limits, **pki.settings(mutual=True)) as server:
        for name in ("alice", "bob"):
            pki.issue("client", f"{name}@example.org", common_name=name)
            with lectern.Client(server.target, tls=pki.client(mutual=True), timeout=WAIT) as client:
                (failure,) = ask(client, 2)
            assert f"CN={name}" in failure.details()


@pytest.mark.unit
def test_clients_that_are_quiet_are_forgotten_and_busy_ones_are_not() -> None:
    quota, allowance = Quota(clients=3), Allowance(rate=0.001, burst=2, concurrency=1)
    busy = quota.admit("busy", allowance)
    for i in range(100):
        quiet = quota.admit(f"quiet {i}", allowance)
        assert quiet is not None
        quiet.release()
    assert len(quota._usages) == 3
    with pytest.raises(ResourceExhausted, match="under way"):
        quota.admit("busy", allowance)
    assert busy is not None
    busy.release()
    quota.admit("busy", allowance)


@pytest.mark.unit
def test_whoever_waits_as_told_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e6
    monkeypatch.setattr("services.server.quota.time.monotonic", lambda: now)
    quota, allowance = Quota(clients=1), Allowance(rate=7, burst=1)
    for _ in range(1000):
        quota.admit("a", allowance)
        with pytest.raises(ResourceExhausted) as caught:
            quota.admit("a", allowance)
        now += caught.value.retry_after or 0


@pytest.mark.unit
def test_without_limits_nothing_is_kept() -> None:
    quota = Quota(clients=1)
    assert quota.admit("a", Allowance()) is None
    assert not quota._usages
