"""Other projects' clients, each with packages of its own, installed on first use and kept in `$LECTERN_CACHE`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from filelock import FileLock

from tests.programs import missing

ATTEMPTS = 3
INSTALL_SECONDS = 600


def python_with(name: str, *packages: str) -> Path:
    """A Python that has the packages, exact versions. Skips the test where they cannot be had."""
    home = _cache() / f"client-{name}-py{sysconfig.get_python_version()}"
    python = home / "bin" / "python"
    create = [sys.executable, "-m", "venv", "--clear", str(home)]
    install = [str(python), "-m", "pip", "install", "--quiet", *packages]
    _install(name, home, packages, create, install)
    return python


def node_modules_with(name: str, *packages: str) -> Path:
    """A directory that NODE_PATH may name, with the packages, exact versions. Skips where they cannot be had."""
    if not (shutil.which("node") and shutil.which("npm")):
        missing("node", "apt-get install nodejs npm")
    home = _cache() / f"client-{name}-node"
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), *packages]
    _install(name, home, packages, install)
    return home / "node_modules"


def _cache() -> Path:
    return Path(os.environ.get("LECTERN_CACHE", "~/.cache/lectern")).expanduser()


def _install(name: str, home: Path, packages: tuple[str, ...], *commands: list[str]) -> None:
    """Run the commands unless they ran before for the same packages; again where one fails, as the network may."""
    complete = home / "complete"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_suffix(".lock")):
        if complete.is_file() and complete.read_text() == " ".join(packages):
            return
        problem = ""
        for _ in range(ATTEMPTS):
            shutil.rmtree(home, ignore_errors=True)
            problem = next(filter(None, map(_problem, commands)), "")
            if not problem:
                complete.write_text(" ".join(packages))
                return
    missing(name, f"its packages cannot be installed ({' '.join(packages)}): {problem}")


def _problem(command: list[str]) -> str:
    """What went wrong; empty if nothing did."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{command[0]} takes more than {INSTALL_SECONDS} s"
    lines = (result.stderr or result.stdout).strip().splitlines()
    return (lines or ["no output"])[-1] if result.returncode else ""
