"""Write docs/models.md, the gallery of committed models, from their cards: `make docs`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lectern.card import Card, Metric, Table
from lectern.versions import read_card

TARGET = Path(__file__).with_name("models.md")
EXPORTED = TARGET.parents[1] / "exported"


def gallery() -> str:
    """The card of every model's served version, in the order of the lectures."""
    cards = sorted(served_cards(), key=lambda card: (int(re.sub(r"\D", "", card.lecture) or 0), card.name))
    lines = ["# Models", "", "What the card of each committed model says. Written by `make docs`; do not edit.", ""]
    lines += [f"- [{card.title}](#{card.name}) ({card.lecture})" for card in cards]
    for card in cards:
        lines += ["", f"## {card.name}", "", *section(card)]
    return "\n".join(lines) + "\n"


def served_cards() -> Iterator[Card]:
    """The card of each model's served version; directories without cards are further graphs."""
    return (read_card(model) for model in EXPORTED.iterdir() if any(model.glob("*/card.json")))


def section(card: Card) -> list[str]:
    """What one card says."""
    made = card.training
    lines = [
        f"**{card.title}** ({card.lecture}), version {card.version}. {card.description}",
        "",
        "| metric | split | items | value | target |",
        "| --- | --- | --- | --- | --- |",
        *(metric_row(metric) for metric in card.metrics),
        *(f"| {b.metric} of: {b.name} | test | | {b.value:.4g} | |" for b in card.baselines),
    ]
    for table in card.tables:
        lines += ["", *table_lines(table)]
    for figure in card.figures:
        path = f"../exported/{card.name}/{card.version}/{figure.file}"
        lines += ["", f"{figure.title}:", "", f"![{figure.title}]({path})"]
    lines += [
        "",
        f"{made.parameters:,} parameters, by `{made.command}` on {made.device}; ONNX differs from torch by at most "
        f"{card.parity.max_abs_diff:.1g}. Data:",
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
    return f"| {metric.name} | {metric.split} | {metric.n:,} | {metric.value:.4g} | {metric.target_text} |"


def table_lines(table: Table) -> list[str]:
    """A comparison under its title."""
    rows = (" | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) for row in table.rows)
    lines = [f"{table.title}:", "", f"| {' | '.join(table.columns)} |", "| --- " * len(table.columns) + "|"]
    return lines + [f"| {row} |" for row in rows]


if __name__ == "__main__":
    TARGET.write_text(gallery())
