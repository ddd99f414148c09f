"""Prometheus accepts its configuration, and the rules fire when they should; by Prometheus's own tool."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from services import metrics
from tests.conftest import ROOT
from tests.programs import needs
from tests.waiting import WAIT

PROMETHEUS = ROOT / "deploy" / "prometheus"
FIXTURES = Path(__file__).parent / "fixtures"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    needs("promtool")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=WAIT)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (("check", "config"), "prometheus.yml"),
        (("check", "rules"), "rules.yml"),
        (("check", "rules"), "slo.yml"),
        (("test", "rules"), "rules_test.yml"),
        (("test", "rules"), "slo_test.yml"),
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


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by its name."""
    groups = [g for f in ("rules.yml", "slo.yml") for g in yaml.safe_load((PROMETHEUS / f).read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


@pytest.mark.unit
def test_every_alert_is_induced_by_a_test() -> None:
    files = [yaml.safe_load((PROMETHEUS / f"{name}_test.yml").read_text()) for name in ("rules", "slo")]
    tests = [test for file in files for case in file["tests"] for test in case.get("alert_rule_test", [])]
    assert {test["alertname"] for test in tests if test["exp_alerts"]} == set(alerts())


@pytest.mark.unit
def test_every_alert_leads_to_its_section_of_the_runbook() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert set(sections) == set(alerts())
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{name.lower()}")


@pytest.mark.unit
def test_what_is_generated_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "monitoring.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pager"), ("warn", "tickets")])
def test_alertmanager_sends_by_severity(severity: str, receiver: str) -> None:
    needs("amtool")
    config = f"--config.file={PROMETHEUS / 'alertmanager.yml'}"
    command = ["amtool", "config", "routes", "test", config, f"severity={severity}", "alertname=LecternErrors"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == receiver


@pytest.mark.unit
def test_rules_use_metrics_that_the_server_has() -> None:
    text = "".join((PROMETHEUS / name).read_text() for name in ("rules.yml", "slo.yml"))
    used = set(re.findall(r"(?<![:\w])(?:grpc_server|lectern)_\w+(?=[{\[)])", text))
    known = {sample for names in REGISTRY._collector_to_names.values() for sample in names}
    assert metrics.REJECTED in REGISTRY._collector_to_names
    assert used
    assert used <= known
