"""`lectern loadtest`: load a server, and say what it holds."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.app import SERVE, command
from lectern.cli.connection import Connection
from lectern.cli.failures import INTERRUPTED
from lectern.cli.options import AsJson
from lectern.cli.output import FAILED, WRONG_USAGE, fail, fail_for_missing, print_json, show_table

if TYPE_CHECKING:
    from loadtests.campaign import Campaign, Plan
    from loadtests.results import Highest

FIRST_CALL_SECONDS = 60.0  # a graph of gradients is loaded by its first call
METRICS_PORT = 8002
MOST_USERS = 1000  # each has a connection, and all are in one process
DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(us|ms|s|m)?")
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, None: 1.0}
SHARE = re.compile(r"(\d+(?:\.\d+)?) ?(%)?")
NO_LOCUST = (
    "the load test has an environment of its own, since locust changes Python's sockets for all of them: "
    "run `make .venv-load/.installed`, then `.venv-load/bin/lectern loadtest`"
)
# Of a capability that nobody named: then it is left out.
NOT_HERE = ("UNIMPLEMENTED", "NOT_FOUND", "PERMISSION_DENIED", "UNAVAILABLE")


def duration(text: str) -> float:
    """Seconds of 200ms, 1.5s or 2m; a bare number is seconds."""
    match = DURATION.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no duration: write 200ms or 1.5s")
    return float(match[1]) * UNITS[match[2]]


def share(text: str) -> float:
    """0.01 of 1% or 0.01."""
    match = SHARE.fullmatch(text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else 2.0
    if value > 1:
        raise typer.BadParameter(f"{text!r} is no share: write 1% or 0.01")
    return value


def span(text: str) -> tuple[int, int]:
    """1 and 64 of 1:64; 16 and 16 of 16."""
    least, _, most = text.partition(":")
    try:
        numbers = int(least), int(most or least)
    except ValueError:
        numbers = 0, 0
    if not 1 <= numbers[0] <= numbers[1]:
        raise typer.BadParameter(f"{text!r} is no range of users: write 1:64, or 16 for one number")
    if numbers[1] > MOST_USERS:
        raise typer.BadParameter(f"{numbers[1]} users are more than one process can be; at most {MOST_USERS}")
    return numbers


@command(SERVE, timeout=5.0)
def loadtest(
    connection: Connection,
    capability: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="To call; may be repeated.", show_default="every one that answers"),
    ] = None,
    users: Annotated[
        str, typer.Option(metavar="FROM:TO", help="Callers who call again once they have their answer.")
    ] = "1:16",
    seconds: Annotated[float, typer.Option(min=1, help="Of the whole test, about.")] = 60.0,
    p95: Annotated[str, typer.Option(metavar="TIME", help="The SLO: 95 % of the calls are answered within it.")] = "1s",
    failures: Annotated[str, typer.Option(metavar="SHARE", help="Calls that may fail.")] = "1%",
    rate: Annotated[
        float, typer.Option(min=0, help="Calls a second of each capability that must meet the SLO.", show_default="any")
    ] = 0.0,
    ramp: Annotated[bool, typer.Option("--ramp", help="Ever more users, instead of steps.")] = False,
    together: Annotated[bool, typer.Option("--together", help="All capabilities at once, not one by one.")] = False,
    search: Annotated[bool, typer.Option(help="Look for the highest rate that meets the SLO.")] = True,
    metrics: Annotated[
        str, typer.Option(metavar="URL", help="The server's /metrics; none = do without.", show_default="port 8002")
    ] = "",
    output: Annotated[Path, typer.Option(file_okay=False, help="Directory for report.html and report.json.")] = Path(
        "build/loadtest"
    ),
    as_json: AsJson = False,
) -> None:
    """Load a server and say what it holds: a report of each capability, with an exit code.

    First callers without pauses, ever more of them: throughput against latency. Then calls at a rate, whatever the
    server does, until the highest rate is found that meets the SLO. Exit code 1: a capability was not called, more
    calls failed than may, the SLO was missed with the fewest users, or --rate was not reached.

    \b
    lectern loadtest
    lectern loadtest --capability classify --users 1:64 --p95 200ms
    lectern loadtest --target models:8001 --tls-ca ca.pem --token "$TOKEN" --capability explain --rate 5
    """
    wanted, slo, may_fail = span(users), duration(p95), share(failures)
    try:
        from services.server.capabilities import CAPABILITIES

        for name in capability or ():
            _check_name(name, list(CAPABILITIES))
        if find_spec("locust") is None:
            fail(NO_LOCUST)
        from loadtests.campaign import Campaign, GeneratorError, Plan
        from loadtests.report import clear, document, write
    except ImportError as error:
        fail_for_missing("the load test", error, "load")
    if rate and not search:
        fail("--rate is what the search finds: leave --no-search out", WRONG_USAGE)
    if rate and together:
        fail("--rate is of each capability: leave --together out", WRONG_USAGE)
    clear(output)
    _say("calling each capability once, so that it is warm")
    capabilities, absent = _answering(connection, tuple(dict.fromkeys(capability or CAPABILITIES)), bool(capability))
    plan = Plan(
        target=connection.target,
        capabilities=capabilities,
        users=wanted,
        seconds=seconds,
        p95=slo,
        failures=may_fail,
        rate=rate,
        ramp=ramp,
        together=together,
        search=search and not together,
        metrics="" if metrics == "none" else metrics or _metrics_url(connection.target),
        token=connection.token,
        tls=_tls(connection),
        deadline=connection.timeout,
    )
    try:
        campaign = Campaign(plan, _say)
        campaign.run()
    except GeneratorError as error:
        fail(str(error))
    found = document(campaign, absent)
    pages = write(found, output)
    if as_json:
        print_json(found)
    else:
        _show(campaign, plan)
        typer.echo(f"reports: {', '.join(str(page) for page in pages)}")
    if campaign.interrupted:
        _say("stopped by Ctrl-C: the reports have what was measured until then")
        raise typer.Exit(INTERRUPTED)
    if not all(result.passed for result in campaign.results):
        raise typer.Exit(FAILED)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _check_name(name: str, names: list[str]) -> None:
    if name not in names:
        near = get_close_matches(name.replace("-", "_"), names, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        fail(f"no capability is called {name}: {meant}", WRONG_USAGE)


def _answering(connection: Connection, names: tuple[str, ...], named: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Those that answer their descriptor's example, and why others do not; without an answer of one that was named, or
    of any, the command ends with the reason."""
    from google.protobuf.message_factory import GetMessageClass

    from lectern.errors import LecternError
    from services.server.capabilities import CAPABILITIES

    examples = Path(__file__).parents[3] / "docs" / "examples"
    answering, absent, last = [], {}, None
    with connection.client(quiet=True) as client:
        for name in names:
            descriptor = CAPABILITIES[name]
            request = descriptor.example(examples)
            rpc = descriptor.service.methods_by_name[descriptor.rpc_of(request) or ""]
            call = client._stream if rpc.server_streaming else client._call
            try:
                answer: Any = call(request, GetMessageClass(rpc.output_type), FIRST_CALL_SECONDS)
                if rpc.server_streaming:
                    list(answer)
                answering.append(name)
            except LecternError as error:
                here = error.code().name == "UNAVAILABLE" and not error.trailing_metadata()
                if named or here or error.code().name not in NOT_HERE:
                    raise
                absent[name], last = error.details() or error.code().name, error
                _say(f"{name} is left out: {absent[name]}")
        if not answering and last is not None:
            raise last
    return tuple(answering), absent


def _metrics_url(target: str) -> str:
    host = target.rpartition("/")[2].rpartition(":")[0] or target
    return f"http://{host}:{METRICS_PORT}/metrics"


def _tls(connection: Connection) -> dict[str, str | None] | None:
    if connection.tls_ca is None and connection.tls_cert is None:
        return None
    files = {"ca": connection.tls_ca, "certificate": connection.tls_cert, "key": connection.tls_key}
    return {name: str(path.resolve()) if path else None for name, path in files.items()}


def _show(campaign: Campaign, plan: Plan) -> None:
    from loadtests.campaign import callers, milliseconds

    rows = []
    for result in campaign.results:
        best = max(result.curve, key=lambda point: point.throughput, default=None)
        highest = result.highest
        rows.append(
            [
                result.name,
                f"{best.throughput:.1f} with {callers(best.users)}" if best else "-",
                milliseconds(best.p95 if best else None),
                _rate(highest),
                "pass" if result.passed else "FAIL",
            ]
        )
    slo = f"calls/s within {milliseconds(plan.p95)}"
    show_table(["capability", "most answers/s", "its p95", slo, "verdict"], rows)
    for result in campaign.results:
        for verdict in result.verdicts:
            if not verdict.passed:
                typer.echo(f"FAIL {result.name}: {verdict.text}")
        if result.highest and result.highest.limit:
            typer.echo(f"note: {result.name}: {result.highest.limit}")
        if result.curve and result.curve[0].agreement:
            typer.echo(f"{result.name}, {_agreement(result.curve[0].agreement)}")
        if saturated := [point for point in result.curve if point.saturated]:
            typer.echo(f"note: {result.name}: with {callers(saturated[0].users)} {saturated[0].saturated}")
    if campaign.blind:
        typer.echo(f"note: no split of time, and no percentiles of the server: {campaign.blind}")


def _rate(highest: Highest | None) -> str:
    if highest is None or not (highest.rate or highest.failed):
        return "-"
    return f"{highest.rate:.1f}" if highest.rate else f"under {highest.failed:.1f}"


def _agreement(percentiles: list[Any]) -> str:
    from loadtests.campaign import milliseconds

    parts = [
        f"p{a.quantile * 100:.0f}: locust {milliseconds(a.exact)} ({milliseconds(a.bucketed)} in Prometheus' buckets), "
        f"Prometheus {milliseconds(a.server)}, {a.difference:+.0%}{'' if a.agrees else ', NOT within 15 %'}"
        for a in percentiles
    ]
    return "; ".join(parts)
