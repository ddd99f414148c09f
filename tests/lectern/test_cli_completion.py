"""What Tab offers in bash, zsh and fish."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EXPORTED, ROOT, Server
from tests.waiting import WAIT

PROGRAM = "import sys; sys.argv[0] = 'lectern'; from lectern.cli import main; main()"
NOBODY = "127.0.0.1:1"


def run(target: str, *arguments: str, **environment: str) -> str:
    variables = os.environ | {"LECTERN_TARGET": target, **environment}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=WAIT)
    assert not done.stderr, done.stderr
    return done.stdout


def offered(line: str, target: str = NOBODY) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    variables = {"COMP_WORDS": line.rstrip(), "COMP_CWORD": str(len(words) - 1)}
    return run(target, _LECTERN_COMPLETE="complete_bash", **variables).split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("lectern doc", ["doctor"]),
        ("lectern explain cat.png --method gr", ["gradient-times-input", "grad-cam"]),
        ("lectern attack cat.png --method p", ["pgd"]),
        ("lectern defend cat.png --defence j", ["jpeg"]),
        ("lectern train covid", ["covid_regressor"]),
        ("lectern serve class", ["classify"]),
    ],
)
def test_names_that_need_no_server(line: str, names: list[str]) -> None:
    assert offered(line) == names


def test_models_and_homeworks_come_from_the_server(server: Server) -> None:
    assert offered("lectern show compact", server.target) == ["compact_classifier"]
    assert offered("lectern classify --model image_", server.target) == ["image_classifier", "image_purifier"]
    assert offered("lectern unload lunar", server.target) == ["lunar_lander"]
    assert {"HW1", "HW10", "HW3"} <= set(offered("lectern show HW", server.target))


def test_where_no_server_answers_they_come_from_the_directory() -> None:
    names = sorted(path.parent.parent.name for path in EXPORTED.glob("image_*/*/card.json"))
    assert offered("lectern classify --model image_") == names


def test_zsh_and_fish_get_the_same() -> None:
    zsh = run(NOBODY, _LECTERN_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="lectern show compact")
    assert "compact_classifier" in zsh
    fish = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "lectern show compact"}
    assert run(NOBODY, _LECTERN_COMPLETE="complete_fish", **fish).split() == ["compact_classifier"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_can_install_it(shell: str) -> None:
    script = run(NOBODY, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_LECTERN_COMPLETE" in script


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "lectern"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    script = run(NOBODY, "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    lines = f"{script}\nCOMP_WORDS=(lectern show compact)\nCOMP_CWORD=2\n_lectern_completion lectern\necho $COMPREPLY"
    variables = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "LECTERN_TARGET": NOBODY}
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, cwd=ROOT, env=variables, timeout=WAIT)
    assert done.stdout == "compact_classifier\n", done.stderr
