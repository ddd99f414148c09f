"""Queues under pressure: cancelled and late requests cost nothing, neighbours are not disturbed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from lectern import Client, LecternError
from lectern.v1 import classify_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from tests.conftest import Server, encode, serving
from tests.server.test_server import get, sample, wait_until

GRAPH = {"model": "image_classifier", "version": "1"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, "classify") as server:
        yield server


@pytest.fixture
def large(photos: np.ndarray) -> classify_pb2.ClassifyImageRequest:
    """Four full batches: some tenths of a second of work."""
    return classify_pb2.ClassifyImageRequest(images=[encode(photos[i % 100]) for i in range(256)])


def test_cancelled_calls_leave_the_queue_and_end_their_run(
    own: Server, large: classify_pb2.ClassifyImageRequest, photos: np.ndarray
) -> None:
    with grpc.insecure_channel(own.target) as channel:
        stub = ClassifyServiceStub(channel)
        calls = [stub.ClassifyImage.future(large, timeout=60) for _ in range(20)]
        depth = lambda: sample(get(f"{own.metrics_url}/metrics"), "lectern_queue_depth", **GRAPH)  # noqa: E731
        wait_until(lambda: depth() > 20)
        for call in calls:
            call.cancel()
        wait_until(lambda: depth() == 0, seconds=5)
        metrics = get(f"{own.metrics_url}/metrics")
    cancelled = sample(metrics, "lectern_rejected_total", model="image_classifier", reason="cancelled")
    assert cancelled > 20
    # 80 batches were asked for; what was queued never ran.
    assert sample(metrics, "lectern_batch_size_count", **GRAPH) + cancelled <= 80
    with Client(own.target) as client:
        assert len(client.classify_image(encode(photos[0]), timeout=10).results) == 1
    assert not [r for r in own.log_records() if r["level"] == "ERROR"]


def test_what_the_backlog_would_make_late_is_refused_at_the_door(
    own: Server, large: classify_pb2.ClassifyImageRequest
) -> None:
    with grpc.insecure_channel(own.target) as channel:
        stub = ClassifyServiceStub(channel)
        stub.ClassifyImage(large, timeout=60)
        patient = [stub.ClassifyImage.future(large, timeout=60) for _ in range(10)]
        time.sleep(0.5)
        hurried = [stub.ClassifyImage.future(large, timeout=1) for _ in range(10)]
        errors = [LecternError.of(call) for call in hurried if call.code() is not grpc.StatusCode.OK]
        assert all(call.code() is grpc.StatusCode.OK for call in patient)
    refused = [e for e in errors if e.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert refused, [e.code() for e in errors]
    assert all((e.retry_after or 0) > 0 for e in refused)


def test_a_deadline_ends_a_run_that_nobody_else_waits_for(own: Server, photos: np.ndarray) -> None:
    images = [encode(photos[i % 100]) for i in range(256)]
    with Client(own.target) as client:
        for _ in range(5):
            with pytest.raises(LecternError) as caught:
                client.classify_image(images, timeout=0.12)
            assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert len(client.classify_image(images[:1], timeout=10).results) == 1
    assert not [r for r in own.log_records() if r["level"] == "ERROR"]
