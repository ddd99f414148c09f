"""Write docs/models.md, the gallery of committed models, from their cards: `make docs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from artifacts.card import Calibration, Card, ClassScores, Limits, Metric, Table, known
from artifacts.versions import served_cards

TARGET = Path(__file__).with_name("models.md")
EXPORTED = TARGET.parents[1] / "exported"
INTERVALS = """\
Intervals are of 95 % confidence: Wilson's for a share, Hanley and McNeil's for an area under the ROC curve, the normal
distribution's for a mean; all other figures are bootstrapped over what is independent, such as sentences, poems, voices
or states. Some figures have no interval: a ratio of times depends on the machine, not on the items; a Fréchet distance
and a calibration error grow with the noise that resampling adds; forgetting needs the networks of earlier tasks. The
calibration error is the mean gap between confidence and accuracy, each bin of confidence weighted by its answers."""
MOST_CLASSES, WORST_CLASSES = 10, 8


def gallery() -> str:
    """The card of every model's served version, in the order of the lectures."""
    cards = served_cards(EXPORTED)
    lines = ["# Models", "", "What the card of each committed model says. Written by `make docs`; do not edit.", ""]
    lines += [INTERVALS, ""]
    lines += [f"- [{card.title}](#{card.name}) ({card.lecture})" for card in cards]
    for card in cards:
        lines += ["", f"## {card.name}", "", *section(card)]
    return "\n".join(lines) + "\n"


def section(card: Card) -> list[str]:
    """What one card says."""
    made = known(card.training)
    lines = [
        f"**{card.title}** ({card.lecture}), version {card.version}. {card.description}",
        "",
        *(limits_lines(card.limits) if card.limits else ()),
        "| metric | split | items | value | 95 % interval | target |",
        "| --- | --- | --- | --- | --- | --- |",
        *(metric_row(metric) for metric in card.metrics),
        *(f"| {b.metric} of: {b.name} | test | | {b.value:.4g} | | |" for b in card.baselines),
        *(classes_lines(card.per_class) if card.per_class else ()),
        *(calibration_lines(card.calibration) if card.calibration else ()),
    ]
    if card.robustness:
        rows = tuple((r.corruption, r.severity, r.metric, r.value) for r in card.robustness)
        columns = ("corruption", "severity", "metric", "value")
        lines += ["", *table_lines(Table(title="Under corruption", columns=columns, rows=rows))]
    for table in card.tables:
        lines += ["", *table_lines(table)]
    for figure in card.figures:
        path = f"../exported/{card.name}/{card.version}/{figure.file}"
        lines += ["", f"{figure.title}:", "", f"![{figure.title}]({path})"]
    lines += [
        "",
        f"{made.parameters:,} parameters, by `{made.command}` on {made.device}; ONNX differs from torch by at most "
        f"{known(card.parity).max_abs_diff:.1g}. Data:",
        "",
        *(
            f"- {source.source} {source.version} ({source.licence}): {source.train:,} to train, "
            f"{source.validation:,} to validate, {source.test:,} to test"
            for source in card.data
        ),
    ]
    return lines


def metric_row(metric: Metric) -> str:
    """One measured figure."""
    bounds, target = metric.interval_text, metric.target_text.replace("missed", "**missed**")
    return f"| {metric.name} | {metric.split} | {metric.n:,} | {metric.value:.4g} | {bounds} | {target} |"


def limits_lines(limits: Limits) -> list[str]:
    """What a model is for, and where it fails."""
    return [
        f"Intended for: {limits.intended}",
        "",
        "Known limits:",
        "",
        *(f"- {failure}" for failure in limits.failures),
        "",
    ]


def classes_lines(classes: Sequence[ClassScores]) -> list[str]:
    """Each class if there are a few; of many, those with the lowest F1."""
    shown = classes if len(classes) <= MOST_CLASSES else sorted(classes, key=lambda c: c.f1)[:WORST_CLASSES]
    title = "Classes" if shown is classes else f"The {WORST_CLASSES} of {len(classes)} classes with the lowest F1"
    rows = tuple((c.label, c.n, c.precision, c.recall, c.f1) for c in shown)
    return ["", *table_lines(Table(title=title, columns=("class", "n", "precision", "recall", "F1"), rows=rows))]


def calibration_lines(calibration: Calibration) -> list[str]:
    """The error, and what the most confident answers are worth."""
    top = calibration.bins[-1]
    return [
        "",
        f"Calibration error: {calibration.error:.4g}; of the {top.n:,} most confident answers, with a mean probability "
        f"of {top.confidence:.4g}, {top.accuracy:.4g} are right.",
    ]


def table_lines(table: Table) -> list[str]:
    """A comparison under its title."""
    rows = (" | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) for row in table.rows)
    lines = [f"{table.title}:", "", f"| {' | '.join(table.columns)} |", "| --- " * len(table.columns) + "|"]
    return lines + [f"| {row} |" for row in rows]


if __name__ == "__main__":
    TARGET.write_text(gallery())
