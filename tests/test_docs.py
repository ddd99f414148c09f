"""The documentation says what is so."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server


def test_settings_table_is_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    assert (ROOT / "docs" / "settings.md").read_text() == script["table"](), "run `make docs`"


def runnable_blocks() -> list[tuple[str, str]]:
    """Language and text of each README block after a `<!-- run -->` mark."""
    text = (ROOT / "README.md").read_text()
    return re.findall(r"<!-- run -->\n```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def test_readme_has_blocks_to_run() -> None:
    assert len(runnable_blocks()) >= 4


@pytest.mark.parametrize(("language", "text"), runnable_blocks())
def test_readme_examples_run(server: Server, language: str, text: str) -> None:
    text = text.replace("127.0.0.1:8001", server.target)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LECTERN_TARGET": server.target,
    }
    if language == "python":
        commands = [[sys.executable, "-c", text]]
    else:
        commands = [["bash", "-c", line.removeprefix("$ ").split("  #")[0]] for line in text.splitlines()]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60)
        assert result.returncode == 0, (command, result.stderr)
        assert result.stdout.strip(), command
