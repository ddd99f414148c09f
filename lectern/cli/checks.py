"""What `lectern doctor` looks at: each check of this machine says what it found, and what to do if that is bad.

None of them changes anything, and none needs a running server.
"""

from __future__ import annotations

import ctypes
import http.client
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lectern import distribution
from lectern.cli.listing import CARD
from lectern.distribution import how_to_install

State = Literal["ok", "warning", "problem"]

GIB = 2**30
LEAST_DISK, ENOUGH_DISK = 1 * GIB, 5 * GIB
ENOUGH_MEMORY = 1 * GIB
LEAST_FILES = 1024  # open at once; each connection is one
TIME_ERROR = 5  # of adjtimex(2): nothing keeps the clock right
TIMEX_BYTES = 208
SECONDS = 2.0  # for a program or a port to answer
SERVER_PORTS = {"LECTERN_HTTP_PORT": 8000, "LECTERN_PORT": 8001, "LECTERN_METRICS_PORT": 8002}
CPU_FEATURES = {
    "x86_64": ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    "aarch64": ("asimd", "asimddp", "i8mm", "bf16", "sve"),
}
NEEDED_FEATURES = {"x86_64": "avx2", "aarch64": "asimd"}
ENGINES = ("onnxruntime", "onnxruntime-gpu")
LIBRARIES = ("grpcio", "protobuf", "numpy", *ENGINES, "tokenizers", "pillow")


@dataclass(frozen=True)
class Check:
    """One finding; `advice` is empty where all is well."""

    name: str
    state: State
    finding: str
    advice: str = ""


def checks(repository: Path) -> Iterator[Check]:
    """Every check of this machine, one after the other.

    Args:
        repository: the directory of models.
    """
    yield python()
    yield from versions()
    yield from engine()
    yield cpu()
    yield front()
    for variable, default in SERVER_PORTS.items():
        if (number := os.environ.get(variable) or str(default)) != "off":
            yield port(int(number), variable)
    yield models(repository)
    yield memory()
    cache = Path(os.environ.get("LECTERN_CACHE", "~/.cache/lectern")).expanduser()
    yield from (disk(path) for path in dict.fromkeys((_existing(repository), _existing(cache))))
    yield writable(cache)
    yield open_files()
    yield clock(repository)


def python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Whether this Python is one that Lectern is for."""
    from packaging.specifiers import SpecifierSet

    wanted = importlib.metadata.metadata(distribution.NAME)["Requires-Python"]
    number = ".".join(map(str, version))
    finding = f"{platform.python_version()} at {sys.executable}"
    if number in SpecifierSet(wanted):
        return Check("Python", "ok", finding)
    return Check("Python", "problem", finding, f"Lectern needs Python {wanted}: make the environment with one of these")


def versions() -> Iterator[Check]:
    """The installed versions, and whether they are ones that Lectern asks for."""
    from packaging.requirements import Requirement

    present = {name: version for name in LIBRARIES if (version := _version(name))}
    listed = ", ".join(f"{name} {version}" for name, version in present.items())
    yield Check("versions", "ok", f"lectern {distribution.version()}; {listed}")
    for requirement in map(Requirement, importlib.metadata.requires(distribution.NAME) or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            finding = f"{requirement.name} is {installed or 'missing'}; Lectern asks for {requirement.specifier}"
            yield Check("versions", "problem", finding, f"pip install '{requirement.name}{requirement.specifier}'")


def engine() -> Iterator[Check]:
    """ONNX Runtime with its providers, and whether it uses the GPU that there is."""
    installed = [name for name in ENGINES if _version(name)]
    if len(installed) > 1:
        finding, advice = "onnxruntime and onnxruntime-gpu are both installed", "pip uninstall both, then install one"
        yield Check("engine", "problem", f"{finding}, and write the same files", advice)
    gpu = _gpu()
    if not installed:
        advice = f"for a server, {how_to_install('gpu' if gpu else 'cpu')}"
        yield Check("engine", "warning", "no ONNX Runtime: this installation is a client", advice)
        return
    try:
        import onnxruntime
    except Exception as error:  # whatever a broken installation raises
        yield Check(
            "engine",
            "problem",
            f"onnxruntime cannot be imported: {error}",
            f"pip install --force-reinstall {installed[0]}",
        )
        return
    providers = onnxruntime.get_available_providers()
    yield Check("engine", "ok", f"onnxruntime {onnxruntime.__version__}: {', '.join(providers)}")
    has_cuda = "CUDAExecutionProvider" in providers
    if gpu and has_cuda:
        yield Check("CUDA", "ok", f"{gpu}; `lectern serve --device cuda` refuses to start without it")
    elif gpu:
        yield Check("CUDA", "warning", f"{gpu}, which this ONNX Runtime cannot use", how_to_install("gpu"))
    elif has_cuda:
        advice = "install NVIDIA's driver, or give the container the GPU (docker run --gpus all)"
        yield Check("CUDA", "warning", "ONNX Runtime is built for CUDA, and nvidia-smi shows no GPU", advice)
    else:
        yield Check("CUDA", "ok", "no GPU: models run on the CPU")


def cpu(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()) -> Check:
    """Cores, and the vector instructions that ONNX Runtime's speed depends on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line.split(":")[1].split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    has = [feature for feature in CPU_FEATURES.get(machine, ()) if feature in flags]
    finding = f"{cores} cores, {machine}: {', '.join(has) or 'features unknown'}"
    needed = NEEDED_FEATURES.get(machine, "")
    if flags and needed and needed not in flags:
        return Check(
            "CPU", "warning", finding, f"without {needed} models run several times slower: choose another machine"
        )
    return Check("CPU", "ok", finding)


def front() -> Check:
    """Whether the transport in C++ is built."""
    try:
        from services import _native  # noqa: F401
    except ImportError:
        finding = "Python handles every call"
        return Check("transport", "ok", finding, "`make native` builds a front that is faster for small models")
    return Check("transport", "ok", "native: the front in C++ is built")


def port(number: int, variable: str) -> Check:
    """Whether a server could listen there, or a Lectern answers already."""
    name, option = f"port {number}", f"--{variable.removeprefix('LECTERN_').lower().replace('_', '-')}"
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("127.0.0.1", number))
        except OSError as error:
            if who := _answers(number):
                return Check(name, "ok", f"{who} answers")
            advice = f"`ss -ltnp 'sport = :{number}'` shows who has it; or `lectern serve {option} ANOTHER`"
            return Check(name, "problem", f"cannot be used: {error.strerror}", advice)
    return Check(name, "ok", "free")


def models(repository: Path) -> Check:
    """Whether there are models, and whether their cards can be read."""
    if not repository.is_dir():
        advice = "run it in the checkout, or name the directory with --repository; `lectern pull` fetches models"
        return Check("models", "warning", f"there is no directory {repository}", advice)
    cards = sorted(repository.glob(f"*/*/{CARD}"))
    damaged = [card for card in cards if not _is_json(card)]
    if damaged:
        advice = "restore it, or remove the version's directory; the server leaves the model out"
        return Check("models", "problem", f"{damaged[0]} is damaged, and {len(damaged) - 1} more", advice)
    names = {card.parent.parent.name for card in cards}
    if not names:
        return Check(
            "models", "warning", f"{repository} has no model with a card", "`lectern add` or `lectern pull` bring one"
        )
    return Check("models", "ok", f"{len(names)} in {repository}, {len(cards)} versions")


def memory(meminfo: Path = Path("/proc/meminfo")) -> Check:
    """Whether the models fit into the memory that is free."""
    if not meminfo.exists():
        return Check("memory", "ok", "unknown on this system")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = 1024 * int(lines["MemAvailable"].split()[0])
    finding = f"{free / GIB:.1f} GiB free"
    if free < ENOUGH_MEMORY:
        return Check("memory", "warning", finding, "serve fewer capabilities: `lectern serve classify predict`")
    return Check("memory", "ok", finding)


def disk(directory: Path) -> Check:
    """Whether models and caches can still be written."""
    free = shutil.disk_usage(directory).free
    finding = f"{free / GIB:.1f} GiB free at {directory.resolve()}"
    if free < LEAST_DISK:
        return Check("disk", "problem", finding, "make room: a model version needs up to some hundred MB")
    if free < ENOUGH_DISK:
        return Check("disk", "warning", finding, "training downloads several GB of data")
    return Check("disk", "ok", finding)


def writable(cache: Path) -> Check:
    """Whether prepared graphs and downloads can be kept."""
    if os.access(_existing(cache), os.W_OK):
        return Check("cache", "ok", str(cache))
    return Check(
        "cache", "warning", f"{cache} cannot be written", "name another with LECTERN_CACHE and LECTERN_CACHE_DIR"
    )


def open_files() -> Check:
    """Whether there can be enough connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= soft < LEAST_FILES:
        return Check("open files", "warning", f"{soft} at most", "`ulimit -n 65536`: each connection takes one")
    return Check("open files", "ok", f"{soft:,} at most" if soft >= 0 else "no limit")


def clock(repository: Path, now: float | None = None) -> Check:
    """Whether the clock is right, on which certificates and tokens depend."""
    seconds = time.time() if now is None else now
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    newest = max((card.stat().st_mtime for card in repository.glob(f"*/*/{CARD}")), default=0.0)
    if seconds < newest - 24 * 60 * 60:
        day = time.strftime("%Y-%m-%d", time.gmtime(newest))
        return Check(
            "clock", "problem", f"{said}, before the models were written ({day})", "set it: timedatectl set-ntp true"
        )
    if _is_synchronised() is False:
        advice = "start a time service such as chrony: certificates and tokens depend on the clock"
        return Check("clock", "warning", f"{said}, which nothing keeps right", advice)
    return Check("clock", "ok", said)


def _is_synchronised() -> bool | None:
    """What the kernel says of its clock (adjtimex(2)); None where it cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError):
        return None
    status: int = adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))  # zeros: change nothing
    return None if status < 0 else status != TIME_ERROR


def _gpu() -> str:
    """Names of the GPUs with their driver, as nvidia-smi prints them; empty if it shows none."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5 * SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else ""


def _answers(number: int) -> str:
    """Which port of a Lectern server this is, if it is one; else nothing."""
    if "status" in _said(number, "/healthz"):
        return "a Lectern server's metrics port"
    if _said(number, "/v2").get("name") == "lectern":
        return "a Lectern server's HTTP port"
    from lectern.client import Client
    from lectern.errors import LecternError

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with Client(f"127.0.0.1:{number}", timeout=SECONDS) as client:
        try:
            client.list_models()
        except LecternError as error:
            # A server that wants TLS or speaks no gRPC is UNAVAILABLE; one that wants a token says so.
            return "a gRPC server that wants a token" if error.code().name == "UNAUTHENTICATED" else ""
    return "a Lectern server"


def _said(number: int, path: str) -> dict[str, object]:
    """The JSON object that a path of that port answers with; else an empty one."""
    connection = http.client.HTTPConnection("127.0.0.1", number, timeout=SECONDS)
    try:
        connection.request("GET", path)
        said = json.load(connection.getresponse())
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    return said if isinstance(said, dict) else {}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError):
        return False


def _existing(path: Path) -> Path:
    """The path, or the nearest of the folders that hold it which is there."""
    absolute = path.absolute()
    return next((one for one in (absolute, *absolute.parents) if one.exists()), Path("/"))
