"""Makes virtual environments from locked lists, for programs that cannot share the server's packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


class EnvironmentSetupError(RuntimeError):
    """The environment cannot be made; the message says why."""


def make_environment(name: str, finish: Callable[[Path], None] = lambda home: None) -> Path:
    """Install `requirements/NAME.txt` into `$LECTERN_CACHE/NAME-...` unless that is done, and return that directory.

    Other processes that need it wait meanwhile. After a change of the list a new environment is made.

    Args:
        finish: called with the directory after the installation, before the environment counts as complete.

    Raises:
        EnvironmentSetupError: pip failed, or there is no pip.
    """
    cache = Path(os.environ.get("LECTERN_CACHE", "~/.cache/lectern")).expanduser()
    home = cache / f"{name}-py{sysconfig.get_python_version()}"
    requirements, installed = REQUIREMENTS / f"{name}.txt", home / "requirements.txt"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, however this process ends
        if not installed.exists() or installed.read_bytes() != requirements.read_bytes():
            shutil.rmtree(home, ignore_errors=True)
            # With the pip of this process: ensurepip is slow, and some Pythons lack it.
            _run(sys.executable, "-m", "venv", "--without-pip", str(home))
            pip = (sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"))
            _run(*pip, "install", "--quiet", "--requirement", str(requirements))
            finish(home)
            shutil.copy2(requirements, installed)
    return home


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        output = (result.stdout + result.stderr).strip() or "it printed nothing"
        raise EnvironmentSetupError(f"{' '.join(command)} ended with code {result.returncode}: {output[-1000:]}")
