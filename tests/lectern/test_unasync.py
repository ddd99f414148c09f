"""Both clients come from one source, and each method of one is a method of the other with the same arguments."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import lectern
import lectern.aio
from tests.conftest import ROOT

pytestmark = pytest.mark.unit

METHODS = [name for name in dir(lectern.Client) if not name.startswith("_")]


def test_the_generated_client_is_current() -> None:
    command = [sys.executable, "scripts/unasync.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_every_method_is_in_both_clients() -> None:
    assert [name for name in dir(lectern.aio.Client) if not name.startswith("_")] == METHODS
    assert {"classify_image", "run_episode", "list_models", "close"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_same_arguments_and_a_docstring_in_both(name: str) -> None:
    threads, asyncio = getattr(lectern.Client, name), getattr(lectern.aio.Client, name)
    assert list(inspect.signature(threads).parameters) == list(inspect.signature(asyncio).parameters)
    assert threads.__doc__ == asyncio.__doc__ is not None
