"""The servers that are compared, each started as its users would start it, on free ports of 127.0.0.1."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tritonclient.grpc import InferenceServerClient

from benchmarks.peers.commands import PEERS, SERVICES, Body, Command, versions_in
from services.triton_server.launcher import install

START_SECONDS = 300
STOP_SECONDS = 60
MINIMAL = str(SERVICES / "minimal.py")
NEWER_GRPCIO = "grpcio>=1.84"


@dataclass(frozen=True)
class Contestant:
    """How one server is started.

    Args:
        kind: `lectern`, `triton`, one of PEERS, `minimal`, or `newest grpcio`, which is `minimal` with it.
        instances: of each graph.
        arguments: further command-line arguments.
    """

    name: str
    kind: str
    instances: int = 1
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """A server that answers for its models.

    Args:
        software: see Command.
        body: see Command.
    """

    target: str
    pid: int
    metrics_url: str
    software: str
    body: Body


@contextmanager
def running(contestant: Contestant, repository: Path, models: Sequence[str], **environment: str) -> Iterator[Running]:
    """Start it over a model repository, wait until every model is ready, and stop it in the end.

    Raises:
        RuntimeError: it ended, or was not ready within START_SECONDS; with the end of what it printed.
    """
    port, http, metrics = _free_ports(3)
    command = _command(contestant, repository, models, port, http, metrics)
    variables = {"LECTERN_LOG_LEVEL": "warning", "LECTERN_DRAIN_PAUSE_SECONDS": "0", **command.environment}
    target = f"127.0.0.1:{port}"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command.arguments, *contestant.arguments],
            env=os.environ | variables | environment,
            stdout=output,
            stderr=output,
        )
        try:
            if problem := _problem(process, lambda: _ready(command, target, models)):
                output.seek(0)
                raise RuntimeError(f"{contestant.name} {problem}\n{output.read().decode(errors='replace')[-2000:]}")
            metrics_url = f"http://127.0.0.1:{metrics}/metrics"
            yield Running(target, process.pid, metrics_url, command.software, command.body)
        finally:
            _stop(process)


def samples(server: Running) -> list[Sample]:
    """What a server measures."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:  # noqa: S310 - our own server's
        text = response.read().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def _command(
    contestant: Contestant, repository: Path, models: Sequence[str], port: int, http: int, metrics: int
) -> Command:
    lectern = [sys.executable, "-m", "lectern"]
    match contestant.kind:
        case "triton":
            ports = ["--port", str(port), "--http-port", str(http), "--metrics-port", str(metrics)]
            software = "PyPI's nvidia-pytriton {nvidia-pytriton}: Python backend around ONNX Runtime {onnxruntime}"
            versions = versions_in(install())
            return Command([*lectern, "triton", "--repository", str(repository), *ports], software.format(**versions))
        case "minimal":
            return Command([sys.executable, MINIMAL, str(repository), str(port)], f"grpcio {grpc.__version__}")
        case "newest grpcio":
            home = _newest_grpcio()
            command = [str(home / "bin" / "python"), MINIMAL, str(repository), str(port)]
            return Command(command, "grpcio {grpcio}".format(**versions_in(home)))
        case "lectern":
            ports = ["--port", str(port), "--http-port", "off", "--metrics-port", str(metrics)]
            return Command([*lectern, "serve", *ports, "--repository", str(repository)])
        case peer:
            return PEERS[peer](repository, models, port, http, metrics)


def _problem(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> str:
    """Wait until it is ready; returns why it is not, or nothing."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            return f"ended with code {process.returncode}"
        try:
            if ready():
                return ""
        except Exception:  # noqa: S110 - not listening yet, in one of tritonclient's many ways
            pass
        time.sleep(0.2)
    return f"was not ready after {START_SECONDS} s"


def _ready(command: Command, target: str, models: Sequence[str]) -> bool:
    """Whether a server serves its models.

    Raises:
        Exception: it does not listen, or its HTTP says no.
    """
    if command.ready:
        with urllib.request.urlopen(f"http://{target}{command.ready}", timeout=5):
            return True
    with InferenceServerClient(target) as client:
        return all(client.is_model_ready(model, client_timeout=5) for model in models)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop it, and what it has started, even if it leaves that behind."""
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _newest_grpcio() -> Path:
    """An environment with all that peers/minimal.py needs, as here, but for the newest grpcio above our pin."""
    cache = Path(os.environ.get("LECTERN_CACHE", "~/.cache/lectern")).expanduser()
    home = cache / f"newest-grpcio-py{sysconfig.get_python_version()}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    same = [f"{name}=={metadata.version(name)}" for name in ("numpy", "onnxruntime", "protobuf", "uvloop")]
    same.append(f"tritonclient[grpc]=={metadata.version('tritonclient')}")
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, NEWER_GRPCIO, *same], check=True)
    return home


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
