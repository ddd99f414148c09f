"""Prometheus accepts its configuration, and the rules fire when they should; by Prometheus's own tool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services import metrics
from tests.programs import needs
from tests.waiting import WAIT

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
FIXTURES = Path(__file__).parent / "fixtures"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    needs("promtool")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=WAIT)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (("check", "config"), "prometheus.yml"),
        (("check", "rules"), "rules.yml"),
        (("test", "rules"), "rules_test.yml"),
    ],
)
def test_promtool_accepts(what: tuple[str, str], name: str) -> None:
    result = promtool(*what, str(PROMETHEUS / name))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("what", "name", "message"),
    [
        (("check", "rules"), "rules.yml", "unknown function"),
        (("test", "rules"), "rules_test.yml", "LecternDown"),
    ],
)
def test_promtool_refuses_the_broken_fixture(what: tuple[str, str], name: str, message: str) -> None:
    result = promtool(*what, str(FIXTURES / name))
    assert result.returncode != 0
    assert message in result.stdout + result.stderr


@pytest.mark.unit
def test_rules_use_metrics_that_the_server_has() -> None:
    used = set(re.findall(r"(?<![:\w])(?:grpc_server|lectern)_\w+(?=[{\[)])", (PROMETHEUS / "rules.yml").read_text()))
    known = {sample for names in REGISTRY._collector_to_names.values() for sample in names}
    assert metrics.REJECTED in REGISTRY._collector_to_names
    assert used
    assert used <= known
