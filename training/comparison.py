"""Whether a new version of a model is at least as good as the one that is served, by the figures on their cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from artifacts.card import Metric


@dataclass(frozen=True)
class Comparison:
    """A figure of the version that is served and of the new one; None where a card lacks it."""

    served: Metric | None
    new: Metric | None

    @property
    def verdict(self) -> str:
        """What a person reads: `better`, `equal`, `worse`, or why they cannot be compared."""
        if self.served is None or self.new is None:
            return f"not comparable: the {'served' if self.served is None else 'new'} version has no such figure"
        if self.served.n != self.new.n:
            return "not comparable: measured on other items"
        if self.served.value == self.new.value:
            return "equal"
        better = self.new.value < self.served.value if self.new.at_most else self.new.value > self.served.value
        return "better" if better else "worse"  # NaN is worse than any number

    @property
    def as_good(self) -> bool:
        """Whether the new version is known to be no worse."""
        return self.verdict in ("better", "equal")


def compare(served: Sequence[Metric], new: Sequence[Metric]) -> list[Comparison]:
    """The new version's first figure on the test split, and each that the served one has on a fresh set: one whose
    split or name says `fresh`, such as `accuracy_fresh`."""
    headline = next((m for m in new if m.split == "test"), None)
    compared = [] if headline is None else [Comparison(_same(headline, served), headline)]
    return compared + [Comparison(metric, _same(metric, new)) for metric in served if _is_fresh(metric)]


def comparison_table(comparisons: Sequence[Comparison], served: int, new: int) -> Table:
    """Each figure of both versions, and which is better."""
    table = Table("metric", "split", f"v{served}, served", "n", f"v{new}, new", "n", "verdict")
    for comparison in comparisons:
        metric = comparison.new or comparison.served
        assert metric is not None
        cells = [_cells(comparison.served), _cells(comparison.new)]
        table.add_row(metric.name, metric.split, *cells[0], *cells[1], comparison.verdict)
    return table


def _same(metric: Metric, others: Sequence[Metric]) -> Metric | None:
    return next((m for m in others if (m.name, m.split) == (metric.name, metric.split)), None)


def _is_fresh(metric: Metric) -> bool:
    return "fresh" in (metric.split, *metric.name.split("_"))


def _cells(metric: Metric | None) -> tuple[str, str]:
    return ("", "") if metric is None else (f"{metric.value:.4f}", str(metric.n))
