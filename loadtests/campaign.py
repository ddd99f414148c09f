"""One load test: a curve for each capability, then the search for the highest rate that meets the SLO.

Two kinds of load, for two questions. The curve has users who call again once they have their answer (a closed loop): it
shows what a number of callers get. The search offers calls at a rate, whatever the server does (an open loop), and a
call's time counts from when it should have begun. In a closed loop a slow server slows its callers down, and the calls
that they did not make meanwhile are missing from the percentiles (coordinated omission): such a load cannot say which
rate a server holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import scrapes
from loadtests.results import Highest, Point, Result, Verdict, point_of
from loadtests.scrapes import Scrape, ScrapeError, ServerSide
from loadtests.search import RateSearch, grows
from services.server.capabilities import CAPABILITIES

SETTLE = 0.2  # of a step's time, which is not measured
LEAST_STEP_SECONDS = 0.6
LONGEST_CURVE = 2.0  # times what was planned, on a slow machine
RAMP_STEPS = 10
LEAST_CALLS = 10  # a step goes on until so many have ended, up to three times as long
CALLERS = 64  # who share the calls of a rate; a call that finds none free waits, and its time counts from its due time
CURVE = 0.4  # of a capability's time; the search has the rest
LEAST_SEARCH = 0.4  # of a capability's time, even if its curve took longer than planned
PROBES = 5  # how many rates a search is expected to try
LEAST_PROBE_SECONDS = 1.0
LEAST_ARRIVALS = 40
FIRST_RATE = 0.5  # of the most answers a second that the curve has within the SLO
LEAST_QUEUE = 0.25  # of the SLO: a shorter median is no sign of a queue that grows
HANG_SECONDS = 60.0
BUSY = 0.5  # the load average of a core


@dataclass(frozen=True)
class Plan:
    """What to load, how much, for how long, and what must come of it.

    Args:
        target, token, tls, deadline: of the calls; `tls` as the arguments of `lectern.channel.TLS`, None = plaintext.
        capabilities: to call.
        users: least and most. ramp: ever more users, instead of steps. together: all capabilities at once.
        search: whether to look for the highest rate that meets the SLO.
        seconds: of the whole test, about.
        p95: the SLO, in seconds. failures: the share of calls that may fail. rate: calls a second that must meet the
            SLO; 0 = any.
        metrics: address of /metrics; empty = do not read them.
    """

    target: str
    capabilities: tuple[str, ...]
    users: tuple[int, int] = (1, 16)
    seconds: float = 60.0
    p95: float = 1.0
    failures: float = 0.0
    rate: float = 0.0
    ramp: bool = False
    together: bool = False
    search: bool = True
    metrics: str = ""
    token: str | None = None
    tls: dict[str, str | None] | None = None
    deadline: float = 5.0


class GeneratorError(Exception):
    """The process that makes the calls ended; the message has its last words."""


class Generator:
    """The process that makes the calls (loadtests/generator.py).

    Attributes:
        interrupted: whether Ctrl-C came; the answer to the command that was under way is still complete.
    """

    def __init__(self, plan: Plan) -> None:
        self.interrupted = False
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.generator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            cwd=Path(__file__).parents[1],
            start_new_session=True,  # Ctrl-C is for this process, which passes it on
        )
        how = {"target": plan.target, "token": plan.token, "tls": plan.tls, "deadline": plan.deadline}
        self._ask(how | {"capabilities": plan.capabilities}, 0.0)

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # it holds nothing that would be lost
        self._process.communicate()
        self._words.close()

    def ask(self, do: str, seconds: float = 0.0, **arguments: Any) -> dict[str, Any]:
        """Have it do something that takes about so many seconds.

        Raises:
            KeyboardInterrupt: Ctrl-C came before.
        """
        if self.interrupted:
            raise KeyboardInterrupt
        given = {"seconds": seconds} if seconds else {}
        return self._ask({"do": do, **given, **arguments}, seconds)

    def _ask(self, command: dict[str, Any], seconds: float) -> dict[str, Any]:
        limit = threading.Timer(10 * seconds + HANG_SECONDS, self._process.kill)
        limit.start()
        try:
            self._write(json.dumps(command))
            try:
                line = self._read()
            except KeyboardInterrupt:
                self.interrupted = True
                self._write("stop")
                line = self._read()
        finally:
            limit.cancel()
        return dict(json.loads(line))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            print(line, file=self._process.stdin, flush=True)
        except OSError as error:
            raise self._ended() from error

    def _read(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise self._ended()

    def _ended(self) -> GeneratorError:
        self._process.wait()
        self._words.seek(0)
        last = [line for line in self._words.read().splitlines() if line.strip()][-5:]
        what = f"the process that makes the calls ended with status {self._process.returncode}"
        return GeneratorError("\n  ".join([what, *last]))


def levels(users: tuple[int, int], most: int) -> list[int]:
    """Numbers of users, each about twice the one before, at most so many of them (but at least both ends)."""
    least, top = users
    steps = [least]
    while steps[-1] * 2 < top:
        steps.append(steps[-1] * 2)
    if top > least:
        steps.append(top)
    if len(steps) > most:
        kept = max(2, most)
        steps = [steps[round(i * (len(steps) - 1) / (kept - 1))] for i in range(kept)]
    return steps


class Campaign:
    """A load test under way.

    Args:
        say: shows a line of progress.

    Attributes:
        results: what was found so far. interrupted: whether Ctrl-C ended it.
        blind: why the server's metrics are missing; empty if they are not.
        busy: what else this machine did before the test; empty if little.
        providers: what computes on the server.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self._say = plan, say
        self.results: list[Result] = []
        self.interrupted = False
        self.blind = "" if plan.metrics else "not asked for"
        self.busy = _busy()
        self._scrape_seconds = 0.0
        self.providers: tuple[str, ...] = ()

    def run(self) -> None:
        """Load, until the plan is done or Ctrl-C comes; either way `results` have what was measured.

        Raises:
            GeneratorError: calls cannot be made.
        """
        if self.busy:
            self._say(f"note: {self.busy}")
        started = time.monotonic()
        if self._scrape() is None:
            self._say(f"no split of time, and no percentiles of the server: {self.blind}")
        self._scrape_seconds = 0.0 if self.blind else time.monotonic() - started
        units = [self.plan.capabilities] if self.plan.together else [(name,) for name in self.plan.capabilities]
        try:
            with Generator(self.plan) as generator:
                for capabilities in units:
                    name = capabilities[0] if len(capabilities) == 1 else "all together"
                    result = Result(name, capabilities)
                    self.results.append(result)
                    self._load(generator, result, self.plan.seconds / len(units))
                self.interrupted = generator.interrupted
        except KeyboardInterrupt:
            self.interrupted = True
        for result in self.results:
            judge(result, self.plan)

    def _load(self, generator: Generator, result: Result, seconds: float) -> None:
        started = time.monotonic()
        self._curve(generator, result, CURVE * seconds if self.plan.search else seconds)
        if self.plan.search:
            left = started + seconds - time.monotonic()
            self._search(generator, result, max(left, LEAST_SEARCH * seconds))
        generator.ask("rest")

    def _curve(self, generator: Generator, result: Result, seconds: float) -> None:
        least, most = self.plan.users
        if self.plan.ramp:
            steps = min(RAMP_STEPS, most - least + 1)
            numbers = [round(least + (most - least) * i / max(1, steps - 1)) for i in range(steps)]
        else:
            numbers = levels(self.plan.users, int(seconds / (LEAST_STEP_SECONDS + 2 * self._scrape_seconds)))
        each = max(seconds / len(numbers) - 2 * self._scrape_seconds, LEAST_STEP_SECONDS)
        settle = 0.0 if self.plan.ramp else SETTLE * each
        end = time.monotonic() + LONGEST_CURVE * seconds
        for users in numbers:
            if time.monotonic() > end:
                self._say(f"{result.name}: time is up, so {callers(users)} and more are left out")
                return
            over = each if self.plan.ramp else 0.0
            generator.ask("load", capabilities=result.capabilities, users=users, over=over)
            time.sleep(settle)
            with self._watched() as server:
                measured = generator.ask("measure", each - settle, least=max(LEAST_CALLS, len(result.capabilities)))
            kind = "ramp" if self.plan.ramp else "sweep"
            self._add(result, point_of(kind, measured, server(), services_of(result), users), measured)

    def _search(self, generator: Generator, result: Result, seconds: float) -> None:
        plan, end = self.plan, time.monotonic() + seconds
        within = [p.throughput for p in result.curve if p.meets(plan.p95, plan.failures)]
        fastest = max(within, default=min((p.throughput for p in result.curve), default=0.0))
        if not fastest:
            result.highest = Highest(0.0, None, "no call was answered while the curve was measured")
            return
        search, tried, saturated, few = RateSearch(FIRST_RATE * fastest), 0, False, False
        while (rate := search.next()) is not None:
            left = end - time.monotonic()
            lasts = max(LEAST_PROBE_SECONDS, seconds / PROBES, LEAST_ARRIVALS / rate)
            if left < LEAST_PROBE_SECONDS and tried:
                break
            tried += 1
            lasts = min(lasts, max(left, LEAST_PROBE_SECONDS))
            measured = generator.ask(
                "offer",
                lasts,
                capabilities=result.capabilities,
                users=max(CALLERS, plan.users[1]),
                rate=rate,
                grace=min(plan.p95, plan.deadline),
            )
            point = point_of("rate", measured, None, services_of(result), offered=rate)
            point.grew = grows(measured["series"], plan.p95 * LEAST_QUEUE)
            self._add(result, point, measured)
            passed = point.meets(plan.p95, plan.failures)
            search.tell(rate, passed)
            saturated |= not passed and bool(point.saturated)
            few |= rate * lasts < LEAST_ARRIVALS
            result.highest = _highest(search, saturated, few)

    def _add(self, result: Result, point: Point, measured: dict[str, Any]) -> None:
        result.points.append(point)
        result.add(measured["calls"])
        self._say(line(result.name, point))

    def _scrape(self) -> Scrape | None:
        if self.blind:
            return None
        try:
            return scrapes.scrape(self.plan.metrics)
        except ScrapeError as error:
            self.blind = str(error)
            return None

    @contextmanager
    def _watched(self) -> Iterator[Callable[[], ServerSide | None]]:
        """What the server counts in the block; None if its metrics are out of reach."""
        before, counted = self._scrape(), None
        yield lambda: counted
        after = self._scrape()
        if before is not None and after is not None:
            counted = ServerSide.between(before, after)
            self.providers = counted.providers


def _busy() -> str:
    waiting, cores = os.getloadavg()[0], os.cpu_count() or 1
    if waiting < BUSY * cores:
        return ""
    return f"this machine was busy before the test, and may still be: {waiting:.1f} processes wanted its {cores} cores"


def services_of(result: Result) -> Sequence[str]:
    """Full names of the services that it calls."""
    return [CAPABILITIES[name].service.full_name for name in result.capabilities]


def _highest(search: RateSearch, saturated: bool, few: bool) -> Highest:
    failed = None if search.failed == float("inf") else search.failed
    notes = []
    if saturated:
        notes.append("the client was saturated: the server may hold more")
    elif failed is None:
        notes.append("time was up before a rate failed: the server may hold more")
    if not search.passed and failed:
        notes.append("time was up before a rate passed: give it more --seconds")
    if few:
        notes.append("few calls each: give it more --seconds")
    return Highest(search.passed, failed, "; ".join(notes))


def judge(result: Result, plan: Plan) -> None:
    """Compare what was found with the plan's thresholds."""
    result.verdicts = [
        Verdict(called > 0, f"{capability} was called {called} times" if called else f"{capability} made no request")
        for capability in result.capabilities
        for called in [result.called(capability)]
    ]
    curve = result.curve
    faults = [point.faults() for point in result.points]
    failed = sum(sum(codes.values()) for codes in faults)
    asked = failed + sum(point.answered for point in result.points)
    codes = sorted({code for codes in faults for code in codes})
    share = failed / asked if asked else 0.0
    text = f"{failed} of {asked} calls failed" + (f" ({', '.join(codes)})" if codes else "")
    result.verdicts.append(Verdict(share <= plan.failures, f"{text}; allowed: {plan.failures:.2%}"))
    if curve:
        lightest = curve[0]
        p95 = "unknown" if lightest.p95 is None else milliseconds(lightest.p95)
        on_time = lightest.p95 is not None and lightest.p95 <= plan.p95
        text = f"p95 with {callers(lightest.users)} is {p95}; allowed: {milliseconds(plan.p95)}"
        result.verdicts.append(Verdict(on_time, text))
    if plan.rate:
        reached = result.highest.rate if result.highest else 0.0
        text = f"{reached:.1f} calls a second meet the SLO; wanted: {plan.rate:g}"
        result.verdicts.append(Verdict(reached >= plan.rate, text))


def milliseconds(seconds: float | None) -> str:
    """For people: three digits are more than a load test knows."""
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def callers(users: int) -> str:
    """`1 user`, `2 users`."""
    return f"{users} user{'' if users == 1 else 's'}"


def line(name: str, point: Point) -> str:
    """A point as a line of progress."""
    load = f"{point.offered:.3g} calls/s offered" if point.kind == "rate" else callers(point.users)
    parts = [f"{name:<16}{load:>24}  {point.throughput:8.1f} answers/s"]
    parts.append(f"p50 {milliseconds(point.p50):>8}  p95 {milliseconds(point.p95):>8}")
    parts.append(f"client {point.client_cpu:4.0%} of a core")
    if point.failed:
        parts.append(", ".join(f"{count} {code}" for code, count in point.failures.items()))
    if point.unanswered:
        parts.append(f"{point.unanswered} unanswered")
    if point.grew:
        parts.append("latency still grew")
    if point.saturated:
        parts.append(f"CLIENT SATURATED: {point.saturated}")
    return "  ".join(parts)
