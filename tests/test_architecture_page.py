"""docs/architecture.md is true: its drawing, the names in it, and the ways that it walks."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.waiting import WAIT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
SCRIPT = runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))
CODE = re.compile(r"`([^`]+)`")
STEP = re.compile(r"^\d+\. `([^`]+)`((?:,? `[^`]+`)+): (.*?)(?=^\d+\. |^#|^$|\Z)", re.DOTALL | re.MULTILINE)
Function = tuple[str, str]


@dataclass(frozen=True)
class Step:
    """A step of a walk: a file, the functions that are called there, and what is said of them."""

    file: str
    functions: list[str]
    text: str


def section(title: str) -> str:
    """What stands below a heading of the third level."""
    match = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert match, title
    return match[1]


def steps(title: str) -> list[Step]:
    """The steps of a walk."""
    return [Step(file, CODE.findall(names), text) for file, names, text in STEP.findall(section(title))]


WALKS = ("ClassifyImage", "Translate", "A recipe, from data to session")
ALL_STEPS = [step for title in WALKS for step in steps(title)]


def defined(file: str) -> set[str]:
    """Functions, classes and methods of a file; methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            names |= {f"{node.name}.{method.name}" for method in methods}
    return names


@pytest.mark.unit
def test_every_file_of_the_page_exists() -> None:
    paths = set(re.findall(r"[a-z_]+/[\w/]+\.py\b|\b(?:lectern|services|training|artifacts|scripts)/[\w/]*/", PAGE))
    assert len(paths) > 40
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.unit
def test_every_numbered_line_is_a_step() -> None:
    assert sum(len(re.findall(r"^\d+\. ", section(title), re.MULTILINE)) for title in WALKS) == len(ALL_STEPS) > 40


@pytest.mark.unit
@pytest.mark.parametrize("step", ALL_STEPS, ids=lambda step: step.file)
def test_every_function_of_a_walk_exists(step: Step) -> None:
    named = {name for name in CODE.findall(step.text) if re.fullmatch(r"[A-Za-z_.]+", name)}
    imported = set(re.findall(r"\b[A-Z]\w+\b", (ROOT / step.file).read_text()))
    assert not {*step.functions, *named} - defined(step.file) - imported


@pytest.mark.unit
@pytest.mark.parametrize("title", WALKS)
def test_no_file_comes_twice_in_a_walk(title: str) -> None:
    files = [step.file for step in steps(title)]
    assert sorted(files) == sorted(set(files))


def followed(way: str, directory: Path) -> dict[Function, str]:
    """The functions that a way calls, in the order of their first calls, with the files that call them."""
    command = [sys.executable, "-m", "tests.following", way, str(directory / "repository")]
    environment = os.environ | {"LECTERN_CACHE": str(directory / "cache"), "LECTERN_TRANSPORT": "grpc"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=WAIT)
    assert result.returncode == 0, result.stderr
    return {(file, name): caller for file, name, caller in json.loads(result.stdout.splitlines()[-1])}


def assert_walked(title: str, calls: dict[Function, str]) -> None:
    """The functions of a walk are called, and in its order."""
    order = list(calls)
    walk = [(step.file, name) for step in steps(title) for name in step.functions]
    assert [function for function in walk if function not in calls] == []
    assert sorted(walk, key=order.index) == walk


def against_the_arrows(calls: dict[Function, str]) -> set[tuple[str, str]]:
    """Calls from one room to another that it does not import, by the files of both."""
    reached = SCRIPT["reachable"](SCRIPT["arrows"](at_once=True))

    def room(file: str) -> str:
        return str(SCRIPT["room_of"](Path(file).with_suffix("").parts))

    return {
        (caller, file)
        for (file, name), caller in calls.items()
        # An expression of one file that another goes through is no call.
        if caller and "<" not in name and room(file) not in {room(caller), *reached[room(caller)]}
    }


def test_requests_take_the_ways_that_are_walked(tmp_path: Path) -> None:
    against: set[tuple[str, str]] = set()
    for way in ("ClassifyImage", "Translate"):
        (tmp_path / way / "repository").mkdir(parents=True)
        calls = followed(way, tmp_path / way)
        assert_walked(way, calls)
        against |= against_the_arrows(calls)
    listed = re.findall(r"^- `([^`]+)` calls `([^`]+)`:", section("Calls against the arrows"), re.MULTILINE)
    assert sorted(against) == sorted(listed)


def test_a_model_takes_the_way_that_is_walked(tmp_path: Path) -> None:
    assert_walked(WALKS[2], followed("recipe", tmp_path))
