"""The documentation says what is so."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server, serving
from tests.programs import needs
from tests.waiting import WAIT


@pytest.mark.parametrize(("name", "function"), [("settings", "table"), ("models", "gallery")])
@pytest.mark.unit
def test_generated_pages_are_current(name: str, function: str) -> None:
    script = runpy.run_path(str(ROOT / "docs" / f"make_{name}.py"))
    assert (ROOT / "docs" / f"{name}.md").read_text() == script[function](), "run `make docs`"


def blocks(document: str, mark: str) -> list[tuple[str, str]]:
    """Language and text of each block after such a mark."""
    text = (ROOT / document).read_text()
    return re.findall(rf"<!-- {mark} -->\n```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def run(language: str, text: str, directory: Path, *, prints: bool = True, **variables: str) -> None:
    """Each command of a block must succeed and, unless told otherwise, print something."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    if language == "python":
        commands = [[sys.executable, "-c", text]]
    else:
        commands = [["bash", "-c", line.removeprefix("$ ").split("  #")[0]] for line in text.splitlines()]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment, timeout=WAIT)
        assert result.returncode == 0, (command, result.stderr)
        assert (result.stdout + result.stderr).strip() or not prints, command


def runnable_blocks() -> list[tuple[str, str]]:
    return blocks("README.md", "run")


@pytest.mark.unit
def test_readme_has_blocks_to_run() -> None:
    assert len(runnable_blocks()) >= 4


@pytest.mark.parametrize(("language", "text"), runnable_blocks())
def test_readme_examples_run(server: Server, language: str, text: str) -> None:
    run(language, text.replace("127.0.0.1:8001", server.target), ROOT, LECTERN_TARGET=server.target)


def test_security_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("openssl")
    monkeypatch.chdir(tmp_path)
    for language, text in blocks("docs/security.md", "prepare"):
        run(language, text, tmp_path, prints=False)
    ((_, command),) = blocks("docs/security.md", "serve")
    examples = blocks("docs/security.md", "run")
    assert len(examples) == 2
    with serving(tmp_path, *command.removeprefix("$ lectern serve").split()) as server:
        for language, text in examples:
            run(language, text.replace("localhost:8001", server.target.replace("127.0.0.1", "localhost")), tmp_path)
