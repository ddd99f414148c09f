"""The servers that are compared, each started as its users would start it, on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import grpc
from tritonclient.grpc import InferenceServerClient

from services.triton.environment import make_environment
from services.triton.launcher import install

START_SECONDS = 300
STOP_SECONDS = 60
MINIMAL = str(Path(__file__).with_name("minimal.py"))
NEWER_GRPCIO = "grpcio>=1.84"


@dataclass(frozen=True)
class Contestant:
    """How one server is started.

    Args:
        kind: `lectern`, `triton`, `mlserver`, `minimal`, or `newest grpcio`, which is `minimal` with it.
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
        software: what computes in it and what carries its calls, with versions, where they are not this process's own.
    """

    target: str
    pid: int
    metrics_url: str
    software: str


@contextmanager
def running(contestant: Contestant, repository: Path, models: Sequence[str], **environment: str) -> Iterator[Running]:
    """Start it over a model repository, wait until every model is ready, and stop it in the end.

    Raises:
        RuntimeError: it ended, or was not ready within START_SECONDS; with the end of what it printed.
    """
    software = ""
    port, http, metrics = _free_ports(3)
    lectern = [sys.executable, "-m", "lectern"]
    match contestant.kind:
        case "triton":
            ports = ["--port", str(port), "--http-port", str(http), "--metrics-port", str(metrics)]
            command = [*lectern, "triton", "--repository", str(repository), *ports]
            versions = versions_in(install())
            software = (
                "PyPI's nvidia-pytriton {nvidia-pytriton}: Python backend around ONNX Runtime {onnxruntime}".format(
                    **versions
                )
            )
        case "mlserver":
            command, home = _mlserver(repository, models, port, http, metrics)
            software = "mlserver {mlserver}, ONNX Runtime {onnxruntime}".format(**versions_in(home))
        case "minimal":
            command = [sys.executable, MINIMAL, str(repository), str(port)]
            software = f"grpcio {grpc.__version__}"
        case "newest grpcio":
            home = _newest_grpcio()
            command = [str(home / "bin" / "python"), MINIMAL, str(repository), str(port)]
            software = "grpcio {grpcio}".format(**versions_in(home))
        case _:
            ports = ["--port", str(port), "--metrics-port", str(metrics)]
            command = [*lectern, "serve", *ports, "--repository", str(repository)]
    quiet = {"LECTERN_LOG_LEVEL": "warning", "LECTERN_DRAIN_PAUSE_SECONDS": "0"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*command, *contestant.arguments], env=os.environ | quiet | environment, stdout=output, stderr=output
        )
        try:
            if problem := _problem(process, f"127.0.0.1:{port}", models):
                output.seek(0)
                raise RuntimeError(f"{contestant.name} {problem}\n{output.read().decode(errors='replace')[-2000:]}")
            yield Running(f"127.0.0.1:{port}", process.pid, f"http://127.0.0.1:{metrics}/metrics", software)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def versions_in(home: Path) -> dict[str, str]:
    """Versions of the packages in an environment, by name."""
    site = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    return {d.name: d.version for d in metadata.distributions(path=[str(site)])}


def _problem(process: subprocess.Popen[bytes], target: str, models: Sequence[str]) -> str:
    """Wait until every model is ready; returns why not all are, or nothing."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            return f"ended with code {process.returncode}"
        try:
            with InferenceServerClient(target) as client:
                if all(client.is_model_ready(model, client_timeout=5) for model in models):
                    return ""
        except Exception:  # noqa: S110 - not listening yet, in one of tritonclient's many ways
            pass
        time.sleep(0.2)
    return f"was not ready after {START_SECONDS} s"


def _newest_grpcio() -> Path:
    """An environment with all that benchmarks/minimal.py needs, as here, but for the newest grpcio above our pin."""
    cache = Path(os.environ.get("LECTERN_CACHE", "~/.cache/lectern")).expanduser()
    home = cache / f"newest-grpcio-py{sysconfig.get_python_version()}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    same = [f"{name}=={metadata.version(name)}" for name in ("numpy", "onnxruntime", "protobuf", "uvloop")]
    same.append(f"tritonclient[grpc]=={metadata.version('tritonclient')}")
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, NEWER_GRPCIO, *same], check=True)
    return home


def _mlserver(repository: Path, models: Sequence[str], port: int, http: int, metrics: int) -> tuple[list[str], Path]:
    """Write MLServer's settings beside the models; returns its command and the environment that it has to itself."""
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
    return ["/bin/sh", "-c", start, "mlserver", str(folder), str(home / "bin" / "mlserver")], home


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
