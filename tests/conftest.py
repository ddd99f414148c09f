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
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile
from filelock import FileLock
from PIL import Image

from tests.programs import summary
from tests.waiting import WAIT

ROOT = Path(__file__).parents[1]
EXPORTED = ROOT / "exported"
SLIVERS = ROOT / "training" / "data" / "slivers"
# torch here and in what tests train: tests run side by side, and threads that spin while they wait are slow then.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["LECTERN_CACHE_DIR"] = "off"  # a test leaves nothing in its user's home
os.environ["LECTERN_HTTP_PORT"] = "0"  # servers run side by side
os.environ["LECTERN_TIMEOUT"] = str(WAIT)  # of the command line
os.environ.pop("PYTHONUNBUFFERED", None)  # which a shell does not set, and under which no output is left to the end
# Tests send SIGINT to what they start, which must not ignore it where pytest itself was told to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Last of all, what to install for the tests that were skipped."""
    result = yield
    skipped = terminalreporter.stats.get("skipped", [])
    for line in summary(str(report.longrepr[2]) for report in skipped):
        terminalreporter.write_line(line, yellow=True)
    return result


@dataclass
class Server:
    """A running server process."""

    target: str
    metrics_url: str
    process: subprocess.Popen[bytes]
    log: Path
    http_url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def log_records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in whole_lines(self.log) if '"message"' in line]


@contextmanager
def serving(
    directory: Path,
    *arguments: str,
    repository: Path = EXPORTED,
    before: Callable[[], None] | None = None,
    **environment: str,
) -> Iterator[Server]:
    """Run `lectern serve` on free ports, after `before` in its process; on exit it must stop cleanly within its drain
    time."""
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
        process = subprocess.Popen([*command, *arguments], stderr=file, env=os.environ | settings, preexec_fn=before)
    try:
        ready = _wait_until_serving(process, log)
        http_url = f"http://127.0.0.1:{ready['http_port']}"
        yield Server(str(ready["target"]), f"http://127.0.0.1:{ready['metrics_port']}", process, log, http_url)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def whole_lines(log: Path) -> list[str]:
    """The lines of a file that is being written, without a last one that is half there."""
    return log.read_text().split("\n")[:-1]


def _wait_until_serving(process: subprocess.Popen[bytes], log: Path) -> dict[str, object]:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        for line in whole_lines(log):
            if '"message": "serving"' in line:
                return dict(json.loads(line))
        assert process.poll() is None, f"the server ended:\n{log.read_text()}"
        time.sleep(0.05)
    raise AssertionError(f"the server did not start in {WAIT} s:\n{log.read_text()}")


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
def trained(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Path]:
    """A repository that holds the named model, trained on its sliver, once for all tests and processes.

    What the training printed is in `NAME.log` beside it.
    """
    directory = tmp_path_factory.getbasetemp()
    directory = (directory if worker_id == "master" else directory.parent) / "trained"
    directory.mkdir(exist_ok=True)

    def train(name: str, beside: str = "") -> Path:
        """Into a repository of its own, or into that of the model `beside`, which has been trained."""
        repository, log = directory / (beside or name), directory / f"{beside}{name}.log"
        with FileLock(directory / f"{beside}{name}.lock"):
            if not log.is_file():
                command = [sys.executable, "-m", "lectern", "train", name, "--fast", "--output", str(repository)]
                environment = os.environ | {"LECTERN_CACHE": str(directory / f"{name}.cache")}
                result = subprocess.run(
                    command, capture_output=True, text=True, cwd=ROOT, timeout=WAIT, env=environment
                )
                assert result.returncode == 0, result.stderr
                log.write_text(result.stdout)
        return repository

    return train


@pytest.fixture(scope="session")
def reader(trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of models that stand on text_encoder, trained on their slivers."""
    repository = trained("sentiment_classifier")  # with what it stands on
    for name in ("question_answerer", "entailment_classifier", "pos_tagger"):
        trained(name, beside="sentiment_classifier")
    capabilities = ("answer", "classify", "embed", "explain", "tag")
    with serving(tmp_path_factory.mktemp("reader"), *capabilities, repository=repository) as running:
        yield running


@pytest.fixture(scope="session")
def story_reader(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of memory_reader, trained on its sliver."""
    with serving(tmp_path_factory.mktemp("stories"), "answer", repository=trained("memory_reader")) as running:
        yield running


@pytest.fixture(scope="session")
def table_learner(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of table_learner, trained on a few tables."""
    with serving(tmp_path_factory.mktemp("tables"), "predict", repository=trained("table_learner")) as running:
        yield running


@pytest.fixture(scope="session")
def tagger(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of slot_tagger, trained on its sliver."""
    with serving(tmp_path_factory.mktemp("tagger"), "tag", repository=trained("slot_tagger")) as running:
        yield running


@pytest.fixture(scope="session")
def rewriter(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of style_rewriter, trained on its sliver."""
    with serving(tmp_path_factory.mktemp("rewriter"), "translate", repository=trained("style_rewriter")) as running:
        yield running


@pytest.fixture(scope="session")
def embedder(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of word_vectors, trained on its sliver."""
    with serving(tmp_path_factory.mktemp("embedder"), "embed", repository=trained("word_vectors")) as running:
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
    with np.load(SLIVERS / "image_classifier.npz") as file:
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
