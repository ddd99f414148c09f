"""A new version comes by `lectern pull` into a repository that is being served, and goes by `lectern promote`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.artifacts.releasing import MODEL, add_version, copy, publish
from tests.calling import Load
from tests.conftest import serving
from tests.lectern.test_cli import invoke
from tests.waiting import wait_until

CALLS = int(os.environ.get("ROLLOUT_CALLS", "1000"))
"""Of the old version, of the new one, and of the old one again."""


@pytest.mark.chaos
def test_a_version_comes_and_goes_without_a_lost_call(tmp_path: Path) -> None:
    served, newer = copy(tmp_path / "served", MODEL), copy(tmp_path / "newer", MODEL)
    add_version(newer, MODEL, 2)
    archive = publish(newer, tmp_path / "newer.tar")
    with serving(tmp_path, "predict", repository=served) as server:
        with Load(server.target) as load:
            assert load.versions_of_next(CALLS) == {1: CALLS}
            assert invoke("pull", archive, "--repository", served).returncode == 0
            wait_until(lambda: load.versions_of_next(10) == {2: 10})
            assert load.versions_of_next(CALLS) == {2: CALLS}
            assert invoke("promote", MODEL, "1", "--repository", served).returncode == 0
            wait_until(lambda: load.versions_of_next(10) == {1: 10})
            assert load.versions_of_next(CALLS) == {1: CALLS}
        assert load.failures == []
