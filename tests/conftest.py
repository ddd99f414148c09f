"""Real servers for tests: processes started by the CLI on free ports, spoken to over gRPC."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile
from PIL import Image

ROOT = Path(__file__).parents[1]
EXPORTED = ROOT / "exported"
START_SECONDS = 60


@dataclass
class Server:
    """A running server process."""

    target: str
    metrics_url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if '"message"' in line]


@contextmanager
def serving(directory: Path, *arguments: str, repository: Path = EXPORTED, **environment: str) -> Iterator[Server]:
    """Run `lectern serve` on free ports; on exit it must stop cleanly within its drain time."""
    log = directory / "server.log"
    command = [
        sys.executable,
        "-m",
        "lectern",
        "serve",
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--repository",
        str(repository),
    ]
    settings = {"LECTERN_DRAIN_PAUSE_SECONDS": "0", "LECTERN_LOG_FORMAT": "json", **environment}
    with log.open("wb") as file:
        process = subprocess.Popen([*command, *arguments], stderr=file, env=os.environ | settings)
    try:
        ready = _wait_until_serving(process, log)
        yield Server(str(ready["target"]), f"http://127.0.0.1:{ready['metrics_port']}", process, log)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_serving(process: subprocess.Popen[bytes], log: Path) -> dict[str, object]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if '"message": "serving"' in line:
                return dict(json.loads(line))
        assert process.poll() is None, f"the server ended:\n{log.read_text()}"
        time.sleep(0.05)
    raise AssertionError(f"the server did not start in {START_SECONDS} s:\n{log.read_text()}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of the committed models for every test that does not change it."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the committed models that a test may damage."""
    return Path(shutil.copytree(EXPORTED, tmp_path / "exported"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A repository that holds the named model, trained on its sliver, once for all tests."""
    directory = tmp_path_factory.mktemp("trained")

    @cache
    def train(name: str) -> Path:
        command = [sys.executable, "-m", "lectern", "train", name, "--fast", "--output", str(directory / name)]
        subprocess.run(command, check=True, cwd=ROOT, timeout=300, env=os.environ | {"LECTERN_CACHE": str(directory)})
        return directory / name

    return train


@pytest.fixture(scope="session")
def reader(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of question_answerer and sentiment_classifier, trained on their slivers."""
    repository = trained("sentiment_classifier")  # with what it stands on
    with serving(tmp_path_factory.mktemp("reader"), "answer", "classify", repository=repository) as running:
        yield running


@pytest.fixture(scope="session")
def speech(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of the models that take audio, trained on their slivers."""
    repository = tmp_path_factory.mktemp("speech-models")
    for name in ("phoneme_classifier", "speaker_classifier"):
        shutil.copytree(trained(name), repository, dirs_exist_ok=True)
    with serving(tmp_path_factory.mktemp("speech"), "classify", repository=repository) as running:
        yield running


@pytest.fixture(scope="session")
def photos() -> np.ndarray:
    """Real CIFAR-10 photos, uint8 [N, 32, 32, 3]."""
    with np.load(ROOT / "tests" / "data" / "image_classifier.npz") as file:
        return file["images"]


def encode(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """An array as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def record(samples: np.ndarray, kind: str = "WAV", rate: int = 16_000, subtype: str | None = None) -> bytes:
    """Samples [T] or [T, channels] as an audio file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    return encode
