"""`lectern doctor`: each check finds what is wrong, and says what to do."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from lectern.cli import checks
from tests.conftest import EXPORTED, ROOT, Server
from tests.lectern.test_cli import invoke

EVERY = {"Python", "versions", "engine", "CUDA", "CPU", "transport", "models", "memory", "disk", "cache", "open files"}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that nobody has, which the server's ports are set to."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number: int = taken.getsockname()[1]
    for variable in checks.SERVER_PORTS:
        monkeypatch.setenv(variable, str(number))
    return number


def test_it_looks_at_everything_without_a_server(free: int) -> None:
    done = invoke("doctor", "--repository", EXPORTED, "--json")
    found = json.loads(done.stdout)["checks"]
    assert {check["name"] for check in found} == EVERY | {"clock", f"port {free}"}
    assert all(check["advice"] for check in found if check["state"] != "ok")
    assert done.returncode == any(check["state"] == "problem" for check in found)
    (models,) = (check for check in found if check["name"] == "models")
    assert models["state"] == "ok"


def test_a_problem_ends_with_1_and_says_what_to_do(free: int, tmp_path: Path) -> None:
    (card := tmp_path / "own" / "1" / "card.json").parent.mkdir(parents=True)
    card.write_text("{")
    done = invoke("doctor", "--repository", tmp_path)
    assert done.returncode == 1
    page = " ".join(done.stdout.decode().split())
    assert f"problem models {card} is damaged" in page
    assert "restore it, or remove the version's directory" in page


def test_a_port_is_free_taken_or_a_lectern(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        number = stranger.getsockname()[1]
        taken = checks.port(number, "LECTERN_METRICS_PORT")
        assert (taken.state, taken.finding) == ("problem", "cannot be used: Address already in use")
        assert "lectern serve --metrics-port ANOTHER" in taken.advice
    assert checks.port(number, "LECTERN_PORT").finding == "free"
    rpcs, metrics = int(server.target.rpartition(":")[2]), int(server.metrics_url.rpartition(":")[2])
    assert checks.port(rpcs, "LECTERN_PORT") == checks.Check(f"port {rpcs}", "ok", "a Lectern server answers")
    assert checks.port(metrics, "LECTERN_METRICS_PORT").finding == "a Lectern server's metrics port answers"
    web = int(server.http_url.rpartition(":")[2])
    assert checks.port(web, "LECTERN_HTTP_PORT") == checks.Check(
        f"port {web}", "ok", "a Lectern server's HTTP port answers"
    )


@pytest.mark.unit
@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "problem")]
)
def test_a_python_that_lectern_is_not_for(version: tuple[int, int], state: str) -> None:
    assert checks.python(version).state == state


@pytest.mark.unit
def test_versions_that_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = checks._version
    monkeypatch.setattr(checks, "_version", lambda name: {"grpcio": "1.84.0", "rich": None}.get(name, real(name)))
    found = {check.finding.split()[0]: check for check in checks.versions() if check.state == "problem"}
    assert found.keys() == {"grpcio", "rich"}
    assert found["grpcio"].advice.startswith("pip install 'grpcio")


@pytest.mark.unit
def test_two_runtimes_in_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_version", lambda name: "1.0")
    first = next(checks.engine())
    assert (first.state, first.advice) == ("problem", "pip uninstall both, then install one")


@pytest.mark.unit
def test_no_runtime_is_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_version", lambda name: None)
    (only,) = checks.engine()
    assert only.state == "warning"
    assert "pip install -e" in only.advice


@pytest.mark.unit
def test_a_gpu_that_the_runtime_cannot_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (program := tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA H200, 570.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    cuda = next(check for check in checks.engine() if check.name == "CUDA")
    assert cuda.state == "warning"
    assert cuda.finding.startswith("NVIDIA H200, 570.1, which")
    assert "[gpu]" in cuda.advice


@pytest.mark.unit
def test_a_cpu_without_vectors(tmp_path: Path) -> None:
    (cpuinfo := tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu sse4_2\n")
    assert checks.cpu(cpuinfo, "x86_64").state == "warning"
    cpuinfo.write_text("flags : fpu avx2 avx512_vnni\n")
    assert checks.cpu(cpuinfo, "x86_64").finding.endswith("avx2, avx512_vnni")


@pytest.mark.unit
def test_little_memory_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (meminfo := tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  500000 kB\n")
    assert checks.memory(meminfo).state == "warning"
    for free, state in ((10**8, "problem"), (3 * 10**9, "warning"), (10**12, "ok")):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path, free=free: type("", (), {"free": free}))
        assert checks.disk(tmp_path).state == state


@pytest.mark.unit
def test_a_clock_that_stands_before_the_models_were_written() -> None:
    behind = checks.clock(EXPORTED, now=0.0)
    assert behind.state == "problem"
    assert behind.finding.startswith("1970-01-01 00:00:00 UTC, before the models")


@pytest.mark.unit
def test_no_models_here(tmp_path: Path) -> None:
    assert checks.models(tmp_path / "none").state == "warning"
    assert checks.models(tmp_path).state == "warning"
    assert checks.models(ROOT / "exported").state == "ok"
