"""What the simulator says, as docs/scaling.md has it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
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
MULTIPLES, BEYOND = (1, 2, 5, 10), (30, 100)
"""Of the measured rate: by events, and by the law."""


def service() -> Service:
    """The service that was measured."""
    return Service(**json.loads(MEASURED.read_text())["times"])


def measured_rate() -> float:
    """The largest rate that was measured, requests a second."""
    return max(run["rate"] for run in json.loads(MEASURED.read_text())["runs"])


def comparisons() -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """Each run that was measured, and what is predicted for it: mean, p50 and p95 in seconds."""
    for run in json.loads(MEASURED.read_text())["runs"]:
        values = scenarios.predicted(service(), run["pods"], run["quota"], run["rate"])
        yield run, dict(zip(("mean", "p50", "p95"), values, strict=True))


def validate() -> int:
    """Print how near the predictions of means are to what was measured; 1 if one is too far."""
    worst = 0.0
    for run, prediction in comparisons():
        errors = {name: prediction[name] / run[name] - 1 for name in prediction}
        worst = max(worst, abs(errors["mean"]))
        shown = ", ".join(
            f"{n} {1e3 * run[n]:.1f} ms, predicted {1e3 * prediction[n]:.1f} ({errors[n]:+.0%})" for n in errors
        )
        print(f"{run['pods']} pods of {run['quota']} CPU, {run['rate']:.1f} requests/s: {shown}")
    return int(worst > WITHIN)


def write(price: float) -> None:
    """Write the figures into the page, and the picture."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n\n" + "\n".join(_figures(price)) + "\n\n" + END + after)


def _figures(price: float) -> Iterator[str]:
    times = json.loads(MEASURED.read_text())["times"]
    yield (
        f"Measured: a batch of n pictures takes {1e3 * times['batch']:.2f} + {1e3 * times['request']:.2f} n ms of CPU "
        f"time, an idle pod {100 * times['idle']:.1f} % of a CPU, a start {times['start']:.1f} s."
    )
    yield ""
    yield "| pods | quota, CPUs | requests/s | mean, ms | predicted | p50, ms | predicted | p95, ms | predicted |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for run, prediction in comparisons():
        pairs = " | ".join(f"{1e3 * run[n]:.1f} | {1e3 * prediction[n]:.1f}" for n in prediction)
        yield f"| {run['pods']} | {run['quota']} | {run['rate']:.1f} | {pairs} |"
    yield ""
    yield from _needed()
    yield ""
    yield from _events(price)
    yield ""
    yield f"![Rate, pods and p95 of each scenario at ten times the measured rate]({PICTURE.relative_to(DOCS)})"


def _needed() -> Iterator[str]:
    base = measured_rate()
    rates = [base * multiple for multiple in MULTIPLES]
    a, b, pods = scenarios.law(service(), rates)
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
    for name, simulate in (
        ("day", scenarios.simulate_day),
        ("crowd", scenarios.simulate_crowd),
        ("zone loss", scenarios.simulate_zone_loss),
    ):
        for scaler in ("keda", "hpa"):
            for multiple in (1, 10):
                outcome, simulation = simulate(service(), Cluster(scaler=scaler), multiple * measured_rate())
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
