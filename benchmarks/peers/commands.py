"""How each peer is started, with one instance of each model, in an environment of its own."""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from benchmarks.peers.onnx_graph import MAX_BATCH, MAX_WAIT
from services.triton_server.virtualenv import make_environment

SERVICES = Path(__file__).parent
Body = Literal["ModelInfer", "bytes", "json"]


@dataclass(frozen=True)
class Command:
    """What starts a server.

    Args:
        software: what computes in it and what carries its calls, with versions, where they are not this process's own.
        environment: variables beside this process's.
        body: what it takes: ModelInfer over gRPC, or raw values or JSON over HTTP/1.1 at the model's name.
        ready: path that its HTTP answers with 200 once it serves; empty = ModelReady over gRPC.
    """

    arguments: Sequence[str]
    software: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    body: Body = "ModelInfer"
    ready: str = ""


def mlserver(repository: Path, models: Sequence[str], port: int, http: int, metrics: int) -> Command:
    """MLServer, with its settings written beside the models."""
    home = make_environment("mlserver")
    folder = repository.with_name(f"{repository.name}-mlserver")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = {"host": "127.0.0.1", "grpc_port": port, "http_port": http, "metrics_port": metrics}
    # Without worker processes, which only add a hop for one model on two cores.
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    for model in models:
        (folder / model).mkdir()
        described = {
            "name": model,
            "implementation": "mlserver_service.OnnxModel",
            "max_batch_size": MAX_BATCH,
            "max_batch_time": MAX_WAIT,
            "parameters": {"uri": str(repository), "version": "1"},
        }
        (folder / model / "model-settings.json").write_text(json.dumps(described))
    command = [str(home / "bin" / "mlserver"), "start", str(folder)]
    return Command(command, _software(home, "mlserver"), {"PYTHONPATH": str(SERVICES)})


def kserve(repository: Path, models: Sequence[str], port: int, http: int, metrics: int) -> Command:
    """KServe's own server, without a line of log for each call."""
    home = make_environment("kserve")
    ports = ["--grpc_port", str(port), "--http_port", str(http)]
    quiet = ["--enable_latency_logging", "false"]
    command = [*_python(home, "kserve_service.py"), *ports, *quiet, "--repository", str(repository), *models]
    return Command(command, _software(home, "kserve"), {"KSERVE_LOGLEVEL": "WARNING"})


def litserve(repository: Path, models: Sequence[str], port: int, http: int, metrics: int) -> Command:
    """LitServe."""
    home = make_environment("litserve")
    command = [*_python(home, "litserve_service.py"), str(repository), str(port), *models]
    return Command(command, _software(home, "litserve"), body="bytes", ready="/health")


def bentoml(repository: Path, models: Sequence[str], port: int, http: int, metrics: int) -> Command:
    """BentoML; its service names its models itself."""
    home = make_environment("bentoml")
    address = ["--host", "127.0.0.1", "--port", str(port)]
    command = [str(home / "bin" / "bentoml"), "serve", "bentoml_service:Graphs", *address]
    environment = {"BENTOML_DO_NOT_TRACK": "true", "REPOSITORY": str(repository), "PYTHONPATH": str(SERVICES)}
    command += ["--working-dir", str(SERVICES)]
    return Command(command, _software(home, "bentoml"), environment, "json", "/readyz")


def ray(repository: Path, models: Sequence[str], port: int, http: int, metrics: int) -> Command:
    """Ray Serve, with what its documentation sets for high throughput."""
    home = make_environment("ray")
    command = [*_python(home, "ray_service.py"), str(repository), str(port), *models]
    fast = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    environment = {**fast, "RAY_USAGE_STATS_ENABLED": "0"}
    return Command(command, _software(home, "ray"), environment, "bytes", "/-/healthz")


PEERS = {"mlserver": mlserver, "kserve": kserve, "litserve": litserve, "bentoml": bentoml, "ray": ray}


def versions_in(home: Path) -> dict[str, str]:
    """Versions of the packages in an environment, by name."""
    site = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    return {d.name: d.version for d in metadata.distributions(path=[str(site)])}


def _python(home: Path, service: str) -> list[str]:
    return [str(home / "bin" / "python"), str(SERVICES / service)]


def _software(home: Path, peer: str) -> str:
    versions = versions_in(home)
    return f"{peer} {versions[peer]}, ONNX Runtime {versions['onnxruntime']}"
