"""Write docs/metrics.md from the metrics themselves: `make docs`."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase

from services import metrics

TARGET = Path(__file__).with_name("metrics.md")
HEAD = """\
# Metrics

What `/metrics` on port 8002 has, beside the process's own (`process_*`, `python_*`). Written by `make docs`; do not
edit. [observability.md](observability.md) says which dashboards and alerts read them.

A counter's series ends in `_total`, a histogram's in `_bucket`, `_sum` and `_count`, a summary's in `_sum` and
`_count`. `model` is the name of a graph: one model may have several. Times are in seconds.

| metric | kind | labels | what it counts |
| --- | --- | --- | --- |
"""


def table() -> str:
    """Every metric with its labels, then the buckets of the histograms."""
    found = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    rows = [
        f"| `{name(metric)}` | {metric._type} | {', '.join(f'`{label}`' for label in metric._labelnames)} "
        f"| {metric._documentation} |"
        for metric in found
    ]
    buckets = [
        f"- `{name(metric)}`: {', '.join(f'{bound:g}' for bound in metric._kwargs['buckets'])}"
        for metric in found
        if isinstance(metric, Histogram)
    ]
    return HEAD + "\n".join(rows) + "\n\n## Buckets\n\n" + "\n".join(buckets) + "\n"


def name(metric: MetricWrapperBase) -> str:
    """The name as Prometheus shows it."""
    return f"{metric._name}_total" if metric._type == "counter" else metric._name


if __name__ == "__main__":
    TARGET.write_text(table())
