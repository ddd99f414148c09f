"""Write the figures of docs/results.md from the cards of the served models; `--check` only says whether they are stale.

The rest of the page is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from artifacts.card import Card, Metric
from artifacts.versions import served_cards

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- Written by scripts/results.py from the cards: `make docs` -->\n", "<!-- end -->\n"
HEAD = "| lecture | model | figure | value | 95 % interval | target | simpler methods |\n" + "| --- " * 7 + "|\n"


def page(text: str) -> str:
    """The page with the figures that the cards have now.

    Raises:
        ValueError: the page does not say where they belong.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.relative_to(ROOT)} needs {BEGIN!r} and, after it, {END!r}")
    rows = "".join(row for card in served_cards(ROOT / "exported") for row in rows_of(card))
    return f"{before}{begin}\n{HEAD}{rows}\n{end}{after}"


def rows_of(card: Card) -> Iterator[str]:
    """The first figure of the test split, and those for which there is a target or a simpler method."""
    measured = [metric for metric in card.metrics if metric.split == "test"]
    for metric in measured:
        simpler = [f"{b.name}: {b.value:.4g}" for b in card.baselines if b.metric == metric.name]
        if metric is measured[0] or metric.target is not None or simpler:
            yield row(card, metric, "; ".join(simpler))


def row(card: Card, metric: Metric, simpler: str) -> str:
    """One figure beside its target and what simpler methods reach."""
    model, target = f"[`{card.name}`](models.md#{card.name})", metric.target_text.replace("missed", "**missed**")
    cells = (card.lecture, model, metric.name, f"{metric.value:.4g}", metric.interval_text, target, simpler)
    return f"| {' | '.join(cells)} |\n"


def main(check: bool) -> int:
    """Write the page, or compare it; 1 if it is not current."""
    current = PAGE.read_text()
    wanted = page(current)
    if check and wanted != current:
        print(f"{PAGE.relative_to(ROOT)} is not current: run `make docs`")
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
