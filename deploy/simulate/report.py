"""What the simulator says, as docs/scaling.md has it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scenarios
from model import Cluster, Service, Simulation

mpl.use("Agg")
from matplotlib import pyplot as plt

MEASURED = Path(__file__).with_name("measured.json")
DOCS = Path(__file__).parents[2] / "docs"
PAGE, PICTURE = DOCS / "scaling.md", DOCS / "pictures" / "scaling.png"
BEGIN, END = "<!-- Written by `python deploy/simulate report` -->", "<!-- end -->"
WITHIN = 0.15
"""How far a prediction may be from what was measured."""
FEWEST = 2
"""Pods that were measured and disturbed each other least."""
GIVEN, LATENCIES = ("pods", "quota", "rate", "seconds", "seed"), ("mean", "p50", "p95")
MULTIPLES, BEYOND = (1, 2, 5, 10), (30, 100)
"""Of the measured rate: by events, and by the law."""


def service(pods: int) -> Service:
    """The service that was measured, with so many pods on the machine."""
    measured = _measured()
    # A long latency is taken to be that of a request that cost much.
    pairs = zip(sorted(measured["alone"]), sorted(measured["light"][str(pods)]), strict=True)
    return Service(**measured["times"], alone=tuple(pairs))


def measured_rate() -> float:
    """The largest rate that was measured and answered, requests a second."""
    return max(run["rate"] for run in _measured()["runs"] if run["load"] < 1)


def _measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text())  # type: ignore[no-any-return]


def comparisons() -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """What was measured at each number of pods and load, the mean of its rounds, and what is predicted for it."""
    runs = _measured()["runs"]
    predictions = [scenarios.predicted(service(run["pods"]), *(run[name] for name in GIVEN)) for run in runs]
    for pods, load in dict.fromkeys((run["pods"], run["load"]) for run in runs):
        same = [i for i, run in enumerate(runs) if (run["pods"], run["load"]) == (pods, load)]
        measured = {name: float(np.mean([runs[i][name] for i in same])) for name in runs[0]}
        yield measured, {name: float(np.mean([predictions[i][name] for i in same])) for name in predictions[0]}


def judged(run: dict[str, float]) -> tuple[str, ...]:
    """The figures that must be near: under an overload latency says only how long it has lasted."""
    return ("mean", "p95") if run["load"] < 1 else ("answered",)


def validate() -> int:
    """Print how near predictions are to what was measured; 1 if one is too far."""
    worst = 0.0
    for run, prediction in comparisons():
        errors = {name: prediction[name] / run[name] - 1 for name in prediction}
        worst = max(worst, *(abs(errors[name]) for name in judged(run)))
        shown = [
            f"{name} {scale * run[name]:.1f}{unit}, predicted {scale * prediction[name]:.1f} ({errors[name]:+.0%})"
            for name, scale, unit in [*((latency, 1e3, " ms") for latency in LATENCIES), ("answered", 1, "/s")]
        ]
        print(f"{run['pods']:.0f} pods of {run['quota']:g} CPU, {run['rate']:.1f} requests/s: {', '.join(shown)}")
    return int(worst > WITHIN)


def write(price: float) -> None:
    """Write the figures into the page, and the picture."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(_figures(price)) + "\n\n" + END + after)


def _figures(price: float) -> Iterator[str]:
    times = _measured()["times"]
    yield (
        f"Measured: a batch of n pictures takes {1e3 * times['batch']:.2f} + {1e3 * times['request']:.2f} n ms of CPU "
        f"time, an idle pod {100 * times['idle']:.1f} % of a CPU, a start {times['start']:.1f} s. The load average of "
        f"the machine of two cores was {np.mean([run['machine'] for run in _measured()['runs']]):.0f}."
    )
    yield ""
    yield f"| pods | requests/s | {' | '.join(f'{n}, ms | predicted' for n in LATENCIES)} | answered/s | predicted |"
    yield "|" + "---|" * 10
    for run, prediction in comparisons():
        pairs = " | ".join(f"{1e3 * run[n]:.1f} | {1e3 * prediction[n]:.1f}" for n in LATENCIES)
        answered = f"{run['answered']:.0f} | {prediction['answered']:.0f}"
        yield f"| {run['pods']:.0f} | {run['rate']:.0f} | {pairs} | {answered} |"
    yield ""
    yield from _needed()
    yield ""
    yield from _events(price)
    yield ""
    yield f"![Rate, pods and p95 of each scenario at ten times the measured rate]({PICTURE.relative_to(DOCS)})"


def _needed() -> Iterator[str]:
    base = measured_rate()
    rates = [base * multiple for multiple in MULTIPLES]
    a, b, pods = scenarios.law(service(FEWEST), rates)
    yield f"The law is pods = {a:.5f} rate + {b:.4f} √rate."
    yield ""
    yield "| times the measured rate | requests/s | pods by events | pods by the law |"
    yield "|---|---|---|---|"
    counts = [str(count) for count in pods] + [""] * len(BEYOND)
    for multiple, count in zip((*MULTIPLES, *BEYOND), counts, strict=True):
        rate = base * multiple
        yield f"| {multiple} | {rate:.0f} | {count} | {a * rate + b * math.sqrt(rate):.1f} |"


def _events(price: float) -> Iterator[str]:
    yield "| scenario | scaled by | times the rate | pods | nodes | price | p50, ms | p95, ms | p99, ms | failed |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    pictures: list[tuple[str, str, Simulation]] = []
    # Each begins with what its mean rate needs.
    least = {m: max(Cluster.least, scenarios.pods_needed(service(FEWEST), m * measured_rate())) for m in (1, 10)}
    for name, simulate in (
        ("day", scenarios.simulate_day),
        ("crowd", scenarios.simulate_crowd),
        ("zone loss", scenarios.simulate_zone_loss),
    ):
        for scaler in ("keda", "hpa"):
            for multiple in (1, 10):
                cluster = Cluster(scaler=scaler, least=least[multiple])
                outcome, simulation = simulate(service(FEWEST), cluster, multiple * measured_rate())
                if multiple == 10:
                    pictures.append((name, scaler, simulation))
                latencies = " | ".join(f"{1e3 * value:.0f}" for value in (outcome.p50, outcome.p95, outcome.p99))
                yield (
                    f"| {name} | {scaler} | {multiple} | {outcome.pods} | {outcome.nodes} | "
                    f"{price * outcome.node_hours:.2f} | {latencies} | {outcome.failed:.3%} |"
                )
    _draw(pictures)


def _draw(simulations: list[tuple[str, str, Simulation]]) -> None:
    names = list(dict.fromkeys(name for name, _, _ in simulations))
    figure, rows = plt.subplots(3, len(names), figsize=(4 * len(names), 7), sharex="col", layout="constrained")
    for name, scaler, simulation in simulations:
        rate, pods, p95 = rows[:, names.index(name)]
        minutes = [sample.time / 60 for sample in simulation.samples]
        rate.plot(minutes, [s.rate for s in simulation.samples], color="grey")
        pods.plot(minutes, [s.ready for s in simulation.samples], label=scaler)
        p95.plot(minutes, [1e3 * s.p95 for s in simulation.samples], label=scaler)
        rate.set(title=name, ylabel="requests/s")
        pods.set(ylabel="pods")
        p95.set(ylabel="p95, ms", xlabel="minutes", yscale="log")
        p95.legend()
    figure.savefig(PICTURE, dpi=80)
