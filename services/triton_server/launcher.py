"""Installs tritonserver from the wheel of nvidia-pytriton into an environment of its own, and builds its command line.

The wheel carries Triton 2.51 with the python backend only. A python-based backend named `onnxruntime` (`backend.py`)
makes it serve the same `config.pbtxt` that NVIDIA's container serves with its own onnxruntime backend.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from artifacts import versions
from inference.model_config_pb2 import ModelConfig
from services.runtime.completion import completed
from services.runtime.config import ConfigError, parse_message
from services.runtime.loader import GRAPH_FILE
from services.triton_server.virtualenv import EnvironmentSetupError, make_environment

PYTHONS = ((3, 11), (3, 12))


class TritonError(RuntimeError):
    """Triton cannot be installed or started; the message says why."""


@dataclass(frozen=True)
class Ports:
    """The ports on 127.0.0.1 where Triton listens."""

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002


def install() -> Path:
    """Install Triton into `$LECTERN_CACHE/triton-...` on first use (55 MB), and return that directory.

    Raises:
        TritonError: the wheel has no build for this Python, libpython is missing, or pip failed.
    """
    if sys.version_info[:2] not in PYTHONS:
        raise TritonError(f"Triton's wheel runs on Python 3.11 and 3.12; this is {sysconfig.get_python_version()}")
    _require_libpython()
    try:
        return make_environment("triton", _assemble_backends)
    except EnvironmentSetupError as error:
        raise TritonError(str(error)) from error


def command(
    home: Path, repository: Path, ports: Ports, arguments: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of tritonserver over `repository`."""
    _place_backend(home)
    site = _site_packages(home)
    libraries = [sysconfig.get_config_var("LIBDIR"), str(site / "nvidia_pytriton.libs")]
    environment = os.environ | {
        # The backend's stub must load the same Python that made this environment, and find its packages.
        "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":"),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
    }
    addresses = [
        f"--{name}-{part}={value}"
        for name, port in (("grpc", ports.grpc), ("http", ports.http), ("metrics", ports.metrics))
        for part, value in (("address", "127.0.0.1"), ("port", port))
    ]
    line = [
        str(site / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={home / 'backends'}",
        *addresses,
        *arguments,
    ]
    return line, environment


def completed_repository(home: Path, repository: Path) -> Path:
    """A repository of the same models in which every config is complete, as the embedded server completes it.

    It is `repository` itself if nothing is missing there; else a folder of links, made anew beside `home`, with the
    configs that differ. A config that cannot be completed stays as it is, for Triton to refuse.
    """
    configs = {folder.name: config for folder in _models(repository) if (config := _completed(folder))}
    if not configs:
        return repository
    digest = hashlib.sha256(os.fsencode(repository.resolve())).hexdigest()[:16]
    staged = home.with_name(f"{home.name}-repository-{digest}")
    shutil.rmtree(staged, ignore_errors=True)
    for folder in _models(repository):
        (target := staged / folder.name).mkdir(parents=True)
        for entry in folder.iterdir():
            if entry.name != versions.CONFIG or folder.name not in configs:
                (target / entry.name).symlink_to(entry.resolve())
        if folder.name in configs:
            (target / versions.CONFIG).write_text(text_format.MessageToString(configs[folder.name], as_utf8=True))
    return staged


def _models(repository: Path) -> list[Path]:
    return sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))


def _completed(folder: Path) -> ModelConfig | None:
    """The complete config of a model, if its own is not."""
    present = versions.present_versions(folder)
    path = folder / versions.CONFIG
    try:
        message = parse_message(path.read_bytes() if path.exists() else b"")
        graph = folder / str(present[0] if present else 1) / GRAPH_FILE
        config = completed(message, folder.name, graph.read_bytes())
    except (ConfigError, OSError):
        return None
    return None if config == message else config


def _require_libpython() -> None:
    """Check that this Python has its shared library, which Triton's Python backend loads and some builds lack."""
    library = sysconfig.get_config_var("INSTSONAME")
    try:
        with_path = Path(sysconfig.get_config_var("LIBDIR")) / library
        ctypes.CDLL(str(with_path) if with_path.exists() else library)
    except OSError:
        version = sysconfig.get_python_version()
        raise TritonError(f"{library} is missing: apt-get install libpython{version}") from None


def _assemble_backends(home: Path) -> None:
    """Make a backend directory with the python backend for this Python."""
    triton = _site_packages(home) / "pytriton" / "tritonserver"
    (python := home / "backends" / "python").mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(triton / "backends" / "python" / name, python)
    stubs = triton / "python_backend_stubs" / sysconfig.get_python_version()
    shutil.copy2(stubs / "triton_python_backend_stub", python)


def _place_backend(home: Path) -> None:
    """Copy our current backend beside it, since the environment may be older; safe against other processes."""
    (directory := home / "backends" / "onnxruntime").mkdir(exist_ok=True)
    source, target = Path(__file__).with_name("backend.py"), directory / "model.py"
    if not target.exists() or target.read_bytes() != source.read_bytes():
        staged = directory / f".{os.getpid()}"
        shutil.copy2(source, staged)
        staged.replace(target)


def _site_packages(home: Path) -> Path:
    return home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
