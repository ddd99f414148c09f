"""`lectern top`: what a server does now."""

from __future__ import annotations

import http.client
import itertools
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lectern.cli.app import SERVE, command
from lectern.cli.options import AsJson
from lectern.cli.output import WRONG_USAGE, console, fail, print_json, show

if TYPE_CHECKING:
    from lectern.cli.rates import Reading

MOST_BYTES = 64 * 2**20  # of /metrics
READ_SECONDS = 10.0
MIB = 2**20


@command(SERVE)
def top(
    metrics: Annotated[
        str,
        typer.Option(
            envvar="LECTERN_METRICS_TARGET", metavar="HOST:PORT", help="The server's HTTP port, which has /metrics."
        ),
    ] = "127.0.0.1:8002",
    interval: Annotated[float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Between two readings.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one interval, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a server does now: calls, latencies, queues and batches, from its metrics; until Ctrl-C.

    Rates and quantiles are of the last interval; a quantile is as exact as its histogram's buckets. `waits` is the time
    in the queue of a model's graph, `runs` that of one batch, `batch` its rows. --json prints one interval. In a pipe,
    each interval stands below the one before.

    \b
    lectern top
    lectern top --metrics gpu-box:8002 --interval 10
    lectern top --once
    lectern top --json | jq '.graphs[].requests_per_second'
    """
    from lectern.cli.rates import changes, snapshot

    screen = console()
    snapshots = map(snapshot, changes(_readings(metrics, interval)))
    if as_json:
        print_json(next(snapshots))
    elif once or not screen.is_terminal:
        for one in itertools.islice(snapshots, 1 if once else None):
            show(_page(metrics, one))
            sys.stdout.flush()  # into a pipe, in which nobody would see it for long
    else:
        begin = Text(f"reading {metrics} for {interval:g} s")
        with Live(begin, console=screen, screen=True, auto_refresh=False) as live:
            for one in snapshots:
                live.update(_page(metrics, one), refresh=True)


def _readings(address: str, interval: float) -> Iterator[Reading]:
    """The metrics of a server, every so many seconds.

    Raises:
        typer.Exit: it does not answer, or not with metrics.
    """
    from lectern.cli.rates import parsed

    for number in itertools.count():
        if number:
            time.sleep(interval)
        text = _read(address)
        try:
            yield parsed(text, time.monotonic())
        except ValueError as error:
            fail(f"{address}/metrics is not in Prometheus' format: {error}")


def _read(address: str) -> str:
    host, colon, port = address.removeprefix("http://").partition("/")[0].rpartition(":")
    if not colon or not port.isdecimal():
        fail(f"--metrics is {address!r}: write HOST:PORT, e.g. 127.0.0.1:8002", WRONG_USAGE)
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=READ_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        body = answer.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        advice = "`lectern serve` has them at --metrics-port, 8002 unless told otherwise; name it with --metrics"
        fail(f"no metrics at {address} ({getattr(error, 'strerror', None) or type(error).__name__}): {advice}")
    finally:
        connection.close()
    if answer.status != http.client.OK:
        fail(f"{address}/metrics answers {answer.status} {answer.reason}: is this the server's --metrics-port?")
    return body.decode(errors="replace")


def _page(address: str, now: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [_headline(address, now), ""]
    if not now["rpcs"] and not now["graphs"]:
        return Group(*parts, Text(f"no calls in the last {now['seconds']:.0f} s", style="dim"))
    if now["rpcs"]:
        parts += [_calls(now["rpcs"]), ""]
    if now["graphs"]:
        parts += [_graphs(now["graphs"]), ""]
    parts.append(Text("times are p50 and p95 in ms; batch: rows of a run", style="dim"))
    return Group(*parts)


def _headline(address: str, now: dict[str, Any]) -> Text:
    facts = [time.strftime("%H:%M:%S")]
    if now["cores"] is not None:
        facts.append(f"{now['cores']:.2f} cores")
    if now["memory_bytes"]:
        facts.append(f"{now['memory_bytes'] / MIB:,.0f} MiB")
    facts.append(f"requests hold {now['held_bytes'] / MIB:.1f} MiB")
    return Text.assemble((address, "bold"), ("  ·  ".join(["", *facts]), "dim"))


def _calls(entries: list[dict[str, Any]]) -> Table:
    table = _table("RPC", "calls/s", "takes", "in flight", "failures/s")
    for entry in entries:
        failures = ", ".join(f"{rate:.1f} {code}" for code, rate in entry["failures_per_second"].items())
        table.add_row(
            f"{entry['service'].rpartition('.')[2].removesuffix('Service')}.{entry['method']}",
            f"{entry['calls_per_second']:,.1f}",
            _times(entry["p50_seconds"], entry["p95_seconds"]),
            str(entry["in_flight"] or ""),
            Text(failures, "red"),
        )
    return table


def _graphs(entries: list[dict[str, Any]]) -> Table:
    table = _table("model", "requests/s", "batch", "waits", "runs", "queue", "failures/s")
    for entry in entries:
        failures = entry["failures_per_second"]
        table.add_row(
            f"{entry['model']} {entry['version']}",
            f"{entry['requests_per_second']:,.1f}",
            f"{entry['rows_per_batch']:.1f}" if entry["rows_per_batch"] else "",
            _times(entry["wait_p50_seconds"], entry["wait_p95_seconds"]),
            _times(entry["run_p50_seconds"], entry["run_p95_seconds"]),
            str(entry["waiting"] or ""),
            Text(f"{failures:.1f}" if failures else "", "red"),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _times(*seconds: float | None) -> str:
    """In ms, such as `1.3, 4.0`; empty if there are none."""
    return "" if None in seconds else ", ".join(f"{1000 * one:,.1f}" for one in seconds if one is not None)
