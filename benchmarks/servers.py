"""The servers that are compared, each started as its users would start it, on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import InferenceServerClient

from services.triton.environment import make_environment

START_SECONDS = 120
STOP_SECONDS = 60


@dataclass(frozen=True)
class Contestant:
    """How one server is started.

    Args:
        kind: `lectern`, `triton`, `mlserver` or `minimal`.
        instances: of each graph.
        arguments: further command-line arguments.
    """

    name: str
    kind: str
    instances: int = 1
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """A server that answers for its models."""

    target: str
    pid: int
    metrics_url: str


@contextmanager
def running(contestant: Contestant, repository: Path, models: Sequence[str], **environment: str) -> Iterator[Running]:
    """Start it over a model repository, wait until every model is ready, and stop it in the end.

    Raises:
        RuntimeError: it ended, or was not ready within START_SECONDS.
    """
    port, http, metrics = _free_ports(3)
    lectern = [sys.executable, "-m", "lectern"]
    match contestant.kind:
        case "triton":
            ports = ["--port", str(port), "--http-port", str(http), "--metrics-port", str(metrics)]
            command = [*lectern, "triton", "--repository", str(repository), *ports]
        case "mlserver":
            command = _mlserver(repository, models, port, http, metrics)
        case "minimal":
            command = [sys.executable, "-m", "benchmarks.minimal", str(repository), str(port)]
        case _:
            ports = ["--port", str(port), "--metrics-port", str(metrics)]
            command = [*lectern, "serve", *ports, "--repository", str(repository)]
    quiet = {"LECTERN_LOG_LEVEL": "warning", "LECTERN_DRAIN_PAUSE_SECONDS": "0"}
    process = subprocess.Popen(
        [*command, *contestant.arguments],
        env=os.environ | quiet | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(process, contestant, f"127.0.0.1:{port}", models)
        yield Running(f"127.0.0.1:{port}", process.pid, f"http://127.0.0.1:{metrics}/metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(
    process: subprocess.Popen[bytes], contestant: Contestant, target: str, models: Sequence[str]
) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{contestant.name} ended with code {process.returncode}")
        try:
            with InferenceServerClient(target) as client:
                if all(client.is_model_ready(model, client_timeout=5) for model in models):
                    return
        except Exception:  # noqa: S110 - not listening yet, in one of tritonclient's many ways
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{contestant.name} was not ready after {START_SECONDS} s")


def _mlserver(repository: Path, models: Sequence[str], port: int, http: int, metrics: int) -> list[str]:
    """Write MLServer's settings beside the models and return its command; it has an environment of its own."""
    home = make_environment("mlserver")
    folder = repository.with_name(f"{repository.name}-mlserver")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = {"host": "127.0.0.1", "grpc_port": port, "http_port": http, "metrics_port": metrics}
    # Without worker processes, which only add a hop for one model on two cores.
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    shutil.copy2(Path(__file__).with_name("mlserver_runtime.py"), folder)
    for model in models:
        (folder / model).mkdir()
        described = {
            "name": model,
            "implementation": "mlserver_runtime.OnnxModel",
            "max_batch_size": 64,
            "max_batch_time": 0.002,
            "parameters": {"uri": str(repository / model / "1" / "model.onnx"), "version": "1"},
        }
        (folder / model / "model-settings.json").write_text(json.dumps(described))
    # It looks for its runtimes in the working directory.
    start = 'cd "$1" && exec "$2" start .'
    return ["/bin/sh", "-c", start, "mlserver", str(folder), str(home / "bin" / "mlserver")]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
