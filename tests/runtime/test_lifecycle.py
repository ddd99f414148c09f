"""Versions come and go under a running server."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from lectern.v1 import classify_pb2, model_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from lectern.v1.model_pb2_grpc import ModelServiceStub
from tests.conftest import Server, encode, serving
from tests.waiting import WAIT, wait_until

MODEL = "image_classifier"


@pytest.fixture
def watched(tmp_path: Path, repository: Path) -> Iterator[Server]:
    with serving(tmp_path, "classify", repository=repository, LECTERN_WATCH_SECONDS="0.1") as server:
        yield server


def add_version(repository: Path, number: int, change: Callable[[Path], None] = lambda path: None) -> None:
    """Put a copy of version 1, its forward graph alone, in place as training does: by renaming a directory."""
    staged = repository / ".staging"
    shutil.copytree(repository / MODEL / "1", staged)
    card = json.loads((staged / "card.json").read_text())
    card["version"] = number
    card["graphs"] = {"forward": MODEL}
    card["explanation"] = None
    card["files"] = {f"{MODEL}/{number}/model.onnx": hashlib.sha256((staged / "model.onnx").read_bytes()).hexdigest()}
    (staged / "card.json").write_text(json.dumps(card))
    change(staged)
    staged.rename(repository / MODEL / str(number))


def versions(server: Server, name: str = MODEL) -> dict[int, model_pb2.ModelVersion]:
    with grpc.insecure_channel(server.target) as channel:
        model = ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(model=name), timeout=WAIT).model
    return {v.version: v for v in model.versions}


def test_versions_swap_without_a_failed_request(watched: Server, repository: Path, photos: np.ndarray) -> None:
    images = [encode(photo) for photo in photos[:32]]
    stop = threading.Event()
    answered: list[int] = []

    def call(i: int) -> None:
        with grpc.insecure_channel(watched.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = ClassifyServiceStub(channel)
            while not stop.is_set():
                request = classify_pb2.ClassifyImageRequest(images=[images[i]])
                answered.append(stub.ClassifyImage(request, timeout=WAIT).version)

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        callers = [pool.submit(call, i) for i in range(32)]
        try:
            for number in (2, 3, 4):
                time.sleep(0.5)
                add_version(repository, number)
                wait_until(lambda number=number: number in set(answered[-10:]))  # type: ignore[misc]
        finally:
            stop.set()
        for caller in callers:
            caller.result()
    assert set(answered) == {1, 2, 3, 4}
    assert list(versions(watched)) == [4]


def test_a_bad_new_version_is_refused_and_the_old_stays(watched: Server, repository: Path, photos: np.ndarray) -> None:
    add_version(repository, 2, lambda staged: (staged / "model.onnx").write_bytes(b"broken"))
    wait_until(lambda: 2 in versions(watched))
    states = versions(watched)
    assert states[2].state == model_pb2.MODEL_STATE_UNAVAILABLE
    assert "SHA-256" in states[2].reason
    assert states[1].state == model_pb2.MODEL_STATE_READY
    with grpc.insecure_channel(watched.target) as channel:
        request = classify_pb2.ClassifyImageRequest(images=[encode(photos[0])])
        assert ClassifyServiceStub(channel).ClassifyImage(request, timeout=WAIT).version == 1
    assert any("SHA-256" in str(r["message"]) for r in watched.log_records() if r["level"] == "ERROR")


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("version_policy { latest { num_versions: 2 } }", [3, 2]),
        ("version_policy { all {} }", [3, 2, 1]),
        ("version_policy { specific { versions: [1, 3] } }", [3, 1]),
    ],
)
def test_version_policy(watched: Server, repository: Path, policy: str, served: list[int]) -> None:
    add_version(repository, 2)
    add_version(repository, 3)
    config = repository / MODEL / "config.pbtxt"
    config.write_text(f"{config.read_text()}\n{policy}\n")
    wait_until(lambda: list(versions(watched)) == served)
    assert all(v.state == model_pb2.MODEL_STATE_READY for v in versions(watched).values())


def test_a_removed_model_is_gone_and_its_memory_comes_back(watched: Server, repository: Path) -> None:
    process = psutil.Process(watched.pid)
    for number in range(2, 12):
        add_version(repository, number)
    config = repository / MODEL / "config.pbtxt"
    text = config.read_text()
    config.write_text(f"{text}\nversion_policy {{ all {{}} }}\n")
    wait_until(lambda: len(versions(watched)) == 11)
    full, threads = process.memory_info().rss, process.num_threads()
    config.write_text(text)
    wait_until(lambda: len(versions(watched)) == 1)
    wait_until(lambda: process.num_threads() <= threads - 10)
    wait_until(lambda: process.memory_info().rss < full - 10 * 4e6)  # weights alone are 6 MB a version


@pytest.mark.parametrize("change", ["link", "parent"])
def test_nothing_outside_the_repository_is_read(watched: Server, repository: Path, tmp_path: Path, change: str) -> None:
    outside = tmp_path / "outside.onnx"
    shutil.copy(repository / MODEL / "1" / "model.onnx", outside)

    def link(staged: Path) -> None:
        (staged / "model.onnx").unlink()
        (staged / "model.onnx").symlink_to(outside)

    def parent(staged: Path) -> None:
        card = json.loads((staged / "card.json").read_text())
        card["graphs"] = {"forward": "../outside"}
        (staged / "card.json").write_text(json.dumps(card))

    add_version(repository, 2, {"link": link, "parent": parent}[change])
    wait_until(lambda: 2 in versions(watched))
    assert re.search("out of the repository|not valid", versions(watched)[2].reason)
