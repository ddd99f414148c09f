"""The report of a load test: one JSON document, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import psutil

from loadtests.campaign import Campaign, callers, milliseconds
from loadtests.results import AGREES, FEW_CALLS, Point, Result
from loadtests.scrapes import STAGES

PAGE, DATA = "report.html", "report.json"
TEMPLATE = Path(__file__).parent / "report.html.j2"
LOCAL = ("127.", "localhost", "[::1]", "unix:")


def document(campaign: Campaign, absent: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was found, for JSON; times in seconds.

    Args:
        absent: capabilities that were left out, and why.
    """
    plan = campaign.plan
    results = [_result(result) for result in campaign.results]
    return {
        "target": plan.target,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": all(result.passed for result in campaign.results),
        "interrupted": campaign.interrupted,
        "plan": {
            "users": list(plan.users),
            "load": "ramp" if plan.ramp else "sweep",
            "together": plan.together,
            "search": plan.search,
            "seconds": plan.seconds,
            "p95": plan.p95,
            "failures": plan.failures,
            "rate": plan.rate,
            "deadline": plan.deadline,
        },
        "client": _machine(),
        "busy": campaign.busy,
        "same_machine": plan.target.startswith(LOCAL),
        "server": {"metrics": plan.metrics, "missing": campaign.blind, "providers": list(campaign.providers)},
        "left_out": dict(absent),
        "capabilities": results,
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "passed": result.passed,
        "verdicts": [asdict(verdict) for verdict in result.verdicts],
        "highest_rate": asdict(result.highest) if result.highest else None,
        "points": [_point(point) for point in result.points],
        "requests": [
            {
                "capability": r.capability,
                "name": r.name,
                "answered": len(r.times),
                "failures": dict(r.failures),
                **({f"p{q}": float(np.quantile(r.times, q / 100)) for q in (50, 95)} if r.times else {}),
            }
            for r in result.requests.values()
        ],
    }


def _point(point: Point) -> dict[str, Any]:
    agreement = [asdict(a) | {"difference": a.difference, "agrees": a.agrees} for a in point.agreement]
    extra = {"throughput": point.throughput, "saturated": point.saturated, "agreement": agreement}
    return asdict(point) | extra


def _machine() -> dict[str, Any]:
    """The machine that makes the calls."""
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "locust": version("locust"),
        "lectern": version("lectern-serving"),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def clear(directory: Path) -> None:
    """Remove an earlier report, which must not pass for this one's.

    Raises:
        OSError: nothing can be written there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in (PAGE, DATA):
        (directory / name).write_text("")
        (directory / name).unlink()


def write(found: dict[str, Any], directory: Path) -> list[Path]:
    """Write report.html and report.json; returns their paths."""
    page, data = directory / PAGE, directory / DATA
    data.write_text(json.dumps(found, indent=1) + "\n")
    page.write_text(html(found))
    return [page, data]


def html(found: dict[str, Any]) -> str:
    """The page."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "time": milliseconds,
        "users": callers,
        "number": number,
        "share": lambda value: f"{value:.0%}",
    }
    template = environment.from_string(TEMPLATE.read_text())
    charts = {r["name"]: chart(r["points"], found["plan"]["p95"]) for r in found["capabilities"]}
    for result in found["capabilities"]:
        split = [point for point in result["points"] if point["split"] and point["kind"] != "rate"]
        result["split_at"] = [split[0], split[-1]] if len(split) > 1 else split
    return template.render(**found, charts=charts, stages=STAGES, few=FEW_CALLS, within=AGREES)


def number(value: float) -> str:
    """A rate for people."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 64, 24, 16, 44


def chart(points: Sequence[Mapping[str, Any]], slo: float) -> dict[str, Any] | None:
    """Where the parts of the curve lie in a picture of WIDTH x HEIGHT: answers a second to the right, and upwards the
    logarithm of p95. None without a point.

    Args:
        points: as in the document. slo: seconds.
    """
    drawn = [point for point in points if point["p95"]]
    if not drawn:
        return None
    most = _round_up(max(point["throughput"] for point in drawn))
    times = [t for point in drawn for t in (point["p50"], point["p95"])] + [slo]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    high = max(high, low + 1)

    def x(rate: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * rate / most, 1)

    def y(seconds: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(seconds)) / (high - low), 1)

    def placed(point: Mapping[str, Any]) -> dict[str, Any]:
        load = f"{number(point['offered'])} calls/s offered" if point["kind"] == "rate" else callers(point["users"])
        late = point["kind"] == "rate" and (point["p95"] > slo or point["failed_slo"])
        title = f"{load}: {number(point['throughput'])} answers/s, p50 {milliseconds(point['p50'])}, "
        title += f"p95 {milliseconds(point['p95'])}"
        return {
            "x": x(point["throughput"]),
            "p50": y(point["p50"]),
            "p95": y(point["p95"]),
            "label": str(point["users"]),
            "title": title + (f"; {point['saturated']}" if point["saturated"] else ""),
            "saturated": bool(point["saturated"]),
            "late": late,
        }

    for point in drawn:
        failed = sum(point["failures"].values())
        point["failed_slo"] = bool(point["grew"] or failed)  # type: ignore[index]
    curve = [placed(point) for point in drawn if point["kind"] != "rate"]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "curve": curve,
        "probes": [placed(point) for point in drawn if point["kind"] == "rate"],
        "slo": y(slo),
        "across": [{"x": x(most * i / 4), "text": number(most * i / 4)} for i in range(5)],
        "up": [{"y": y(10.0**i), "text": milliseconds(10.0**i)} for i in range(low, high + 1)],
    }


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 4, 5, 8 and 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 4, 5, 8, 10) if step * power >= value)
