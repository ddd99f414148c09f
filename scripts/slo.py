"""Service-level objectives as Prometheus rules: what share of calls failed or was slow, and how fast that uses up what
the objective leaves for it.

The windows and factors are those of Google's SRE workbook, chapter "Alerting on SLOs": a page when 2 % of a month's
budget goes in an hour or 5 % in six, a warning when 10 % goes in a day or in three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RUNBOOK = "https://example.com/lectern/docs/runbook.md#"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# Severity -> pairs of a short and a long window, and how many times faster than allowed the budget burns in both.
BURNS = {"page": (("5m", "1h", 14.4), ("30m", "6h", 6)), "warn": (("2h", "1d", 3), ("6h", "3d", 1))}
LEAST_CALLS = 100
"""Calls in an hour below which a burning budget pages nobody: one failure of ten calls says little."""
CALLS = 'grpc_service!~"grpc[.].+"'
# The server's own failures; a client's mistakes and shed load (RESOURCE_EXHAUSTED) are counted elsewhere.
FAILED = 'grpc_code=~"UNKNOWN|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|DATA_LOSS"'
LONG = ("lectern.v1.ExplainService", "lectern.v1.DefendService")
"""Services whose calls are hundreds of runs each."""
SECONDS, LONG_SECONDS = 1.0, 10.0
"""A call that takes longer is slow."""


@dataclass(frozen=True)
class Objective:
    """A share of calls that must be good.

    Args:
        name: of what is counted, as the names of rules and alerts have it.
        bad: the share of bad calls in a window, as PromQL.
        says: what happens to a call, for people.
    """

    name: str
    target: float
    bad: str
    says: str


ERRORS = Objective(
    name="errors",
    target=0.995,
    bad=f"""\
(
  sum by (grpc_service) (rate(grpc_server_handled_total{{{FAILED}, {CALLS}}}[WINDOW]))
  or 0 * sum by (grpc_service) (rate(grpc_server_handled_total{{{CALLS}}}[WINDOW]))
)
/ sum by (grpc_service) (rate(grpc_server_handled_total{{{CALLS}}}[WINDOW]))
""",
    says="fails",
)
SLOW = Objective(
    name="slow",
    target=0.99,
    bad=f"""\
1 - (
  sum by (grpc_service) (
    rate(
      grpc_server_handling_seconds_bucket{{
        grpc_type="unary", le="{SECONDS}", grpc_service!~"grpc[.].+|{"|".join(LONG)}"
      }}[WINDOW]
    )
    or rate(
      grpc_server_handling_seconds_bucket{{
        grpc_type="unary", le="{LONG_SECONDS}", grpc_service=~"{"|".join(LONG)}"
      }}[WINDOW]
    )
  )
  / sum by (grpc_service) (rate(grpc_server_handling_seconds_count{{grpc_type="unary", {CALLS}}}[WINDOW]))
)
""",
    says="answers too late",
)


def groups() -> list[dict[str, Any]]:
    """The groups of a rule file."""
    objectives = (ERRORS, SLOW)
    records = [{"record": _share(o, w), "expr": o.bad.replace("WINDOW", w)} for o in objectives for w in WINDOWS]
    alerts = [_alert(objective, severity) for objective in objectives for severity in BURNS]
    return [{"name": "lectern-slo-recording", "rules": records}, {"name": "lectern-slo-alerts", "rules": alerts}]


def bound(service: str) -> float:
    """Seconds that a call of the service may take."""
    return LONG_SECONDS if service in LONG else SECONDS


def _share(objective: Objective, window: str) -> str:
    return f"grpc_service:grpc_server_{objective.name}:ratio_rate{window}"


def _alert(objective: Objective, severity: str) -> dict[str, Any]:
    budget = 1 - objective.target
    burns = "\nor ".join(
        f"({_share(objective, short)} > {factor * budget:.4g} and {_share(objective, long)} > {factor * budget:.4g})"
        for short, long, factor in BURNS[severity]
    )
    calls = f"sum by (grpc_service) (increase(grpc_server_handled_total{{{CALLS}}}[1h])) > {LEAST_CALLS}"
    share = "{{ $value | humanizePercentage }}"
    name = f"Lectern{objective.name.capitalize()}Budget{'Burns' if severity == 'page' else 'Leaks'}"
    return {
        "alert": name,
        "expr": f"({burns}\n)\n" + (f"and on (grpc_service) {calls}\n" if severity == "page" else ""),
        "for": "2m" if severity == "page" else "1h",
        "labels": {"severity": severity},
        "annotations": {
            "summary": f"{{{{ $labels.grpc_service }}}} {objective.says} for {share} of its calls",
            "description": f"More than the objective of {objective.target:.1%} allows for, at this rate, a month.",
            "runbook_url": RUNBOOK + name.lower(),
        },
    }
