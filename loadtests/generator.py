"""The process that makes the calls: locust's users, told what to do by a line of JSON each, of which each is answered.

Of its own, so that its CPU time is what making calls costs, and gevent changes the standard library of nothing else.

    {"do": "load", "capabilities": [...], "users": N, "over": S}
        N users call them in turn, without a pause between calls; all at once if S is 0, else ever more within S seconds
    {"do": "measure", "seconds": S, "least": N}
        measure for S seconds, and up to three times that until N calls have ended
    {"do": "offer", "capabilities": [...], "users": N, "rate": R, "seconds": S, "grace": G}
        begin R calls a second for S seconds, wait up to G seconds for their answers, and measure them
    {"do": "rest"}
        make no calls

"stop" ends the one that is under way.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gevent
import grpc
import psutil
from gevent.event import Event
from gevent.queue import Queue
from locust import task
from locust.env import Environment

from lectern.channel import TLS
from loadtests.user import GrpcUser

LAG_SECONDS = 0.01
CONNECT_SECONDS = 10.0
REST_SECONDS = 5.0
LONGER = 3


class Arrivals:
    """When calls begin whose callers do not wait for each other: a Poisson process, as of many independent callers, of
    which exactly as many fall into the time as the rate says.

    Args:
        rate: calls a second. start, end: in `time.perf_counter()` seconds.
    """

    def __init__(self, rate: float, start: float, end: float) -> None:
        numbers = random.Random(0)  # noqa: S311 - the same times at each run
        count = max(1, round(rate * (end - start)))
        self._times = iter(sorted(numbers.uniform(start, end) for _ in range(count)))

    def take(self) -> float | None:
        """When the next call should begin; None after the last."""
        return next(self._times, None)


class Load:
    """What the users do now, and what came of it."""

    def __init__(self) -> None:
        self.capabilities: list[str] = []
        self.callers = 0  # those with higher numbers wait
        self.arrivals: Arrivals | None = None
        self._changed = Event()
        self.under_way: dict[object, float] = {}  # caller -> when its call was due
        self.times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.failures: defaultdict[tuple[str, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.series: list[float] = []  # all times, in the order of their ends
        self.ended = 0
        self.lags: list[float] = []

    def change(self, capabilities: Sequence[str], callers: int, arrivals: Arrivals | None = None) -> None:
        """Have so many callers call these, at those times or without a pause."""
        self.capabilities, self.callers, self.arrivals = list(capabilities), callers, arrivals
        before, self._changed = self._changed, Event()
        before.set()

    def wait(self) -> None:
        """Wait for the next change."""
        self._changed.wait()

    def forget(self) -> None:
        """Count from here."""
        self.times.clear()
        self.failures.clear()
        self.ended, self.series, self.lags = 0, [], []

    def count(self, capability: str, name: str, seconds: float, failure: str) -> None:
        self.ended += 1
        if failure:
            self.failures[capability, name][failure] += 1
        else:
            self.times[capability, name].append(seconds)
            self.series.append(seconds)


LOAD = Load()


class Caller(GrpcUser):
    """A caller with one connection, who calls the capabilities in turn, and of each its users' requests."""

    numbers = itertools.count()
    connected = 0

    def on_start(self) -> None:
        self.number = self.turn = next(self.numbers)  # callers begin with different ones: few still call everything
        self.users: dict[str, Iterator[GrpcUser]] = {}
        with suppress(grpc.FutureTimeoutError):  # then its calls say what is wrong
            grpc.channel_ready_future(self.channel).result(CONNECT_SECONDS)
        Caller.connected += 1

    @task
    def call_next(self) -> None:
        due = 0.0
        if self.number >= LOAD.callers or (LOAD.arrivals and (due := LOAD.arrivals.take()) is None):
            LOAD.wait()
            return
        self.turn += 1
        capability = LOAD.capabilities[self.turn % len(LOAD.capabilities)]
        user = next(self._users_of(capability))
        LOAD.under_way[self] = due or time.perf_counter()
        try:
            if due:
                gevent.sleep(max(0.0, due - time.perf_counter()))
            user.due = due
            random.choice(user.tasks)(user)  # noqa: S311
        finally:
            LOAD.under_way.pop(self, None)

    def _users_of(self, capability: str) -> Iterator[GrpcUser]:
        if capability not in self.users:
            users = [kind(self.environment, self.channel) for kind in kinds(capability)]
            for user in users:
                user.capability = capability
                user.on_start()
            start = self.turn % len(users)
            self.users[capability] = itertools.cycle(users[start:] + users[:start])
        return self.users[capability]


def kinds(capability: str) -> list[type[GrpcUser]]:
    """The kinds of users of a capability."""
    module = importlib.import_module(f"loadtests.users.{capability}")
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    return [kind for kind in found if issubclass(kind, GrpcUser)]


def meter_lag() -> None:
    """Note how late this process is for a timer: all that it measures is late by about as much."""
    while True:
        due = time.perf_counter() + LAG_SECONDS
        gevent.sleep(LAG_SECONDS)
        LOAD.lags.append(max(0.0, time.perf_counter() - due))


class Commands:
    """Lines from standard input, read by a thread, since reading would block the event loop."""

    def __init__(self) -> None:
        self.lines: Queue[str] = Queue()
        self.stop = Event()
        gevent.spawn(self._read)

    def _read(self) -> None:
        while line := gevent.get_hub().threadpool.apply(sys.stdin.readline):
            if line.strip() == "stop":
                self.stop.set()
            else:
                self.lines.put(line)
        self.stop.set()
        self.lines.put("")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self.lines.get():
            self.stop.clear()
            yield json.loads(line)


class Generator:
    """Does what the commands say."""

    def __init__(self, commands: Commands, host: str) -> None:
        self._stop = commands.stop
        environment = Environment(user_classes=[Caller], host=host)
        environment.events.request.add_listener(self._count)
        self._runner = environment.create_local_runner()
        self._users = 0

    def _count(self, name: str, response_time: float, exception: Exception | None, context: Any, **_: Any) -> None:
        LOAD.count(context["capability"], name, response_time / 1000, str(exception) if exception else "")

    def load(self, capabilities: list[str], users: int, over: float) -> dict[str, Any]:
        if not over:
            self._spawn(users)
        LOAD.change(capabilities, users)
        self._spawn(users, over)
        return {}

    def measure(self, seconds: float, least: int) -> dict[str, Any]:
        with self._measured() as result:
            started = time.perf_counter()
            while not self._stop.is_set():
                spent = time.perf_counter() - started
                if spent >= (seconds if LOAD.ended >= least else LONGER * seconds):
                    break
                self._stop.wait(min(0.1, max(0.001, seconds - spent)))
        return result

    def offer(self, capabilities: list[str], users: int, rate: float, seconds: float, grace: float) -> dict[str, Any]:
        self.rest()
        self._spawn(users)
        with self._measured() as result:
            start = time.perf_counter()
            arrivals = Arrivals(rate, start, start + seconds)
            LOAD.change(capabilities, users, arrivals)
            self._stop.wait(seconds)
            self._drain(start + seconds + grace)
        # Whoever has no answer yet has waited for so long; leaving these out would flatter the server.
        now, late = time.perf_counter(), [due for due in LOAD.under_way.values() if due]
        while not self._stop.is_set() and (due := arrivals.take()) is not None:
            late.append(due)
        LOAD.change([], 0)
        return result | {"seconds": min(seconds, now - start), "unanswered": [now - due for due in late if due <= now]}

    def rest(self) -> dict[str, Any]:
        LOAD.change([], 0)
        self._drain(time.perf_counter() + REST_SECONDS)
        return {}

    def _drain(self, end: float) -> None:
        while LOAD.under_way and time.perf_counter() < end and not self._stop.is_set():
            gevent.sleep(0.005)

    def _spawn(self, users: int, over: float = 0.0) -> None:
        """Have at least so many users: ever more within so many seconds, or connected when this returns."""
        if users > self._users:
            self._runner.start(users, (users - self._users) / over if over else users)
            self._users = users
        while not over and Caller.connected < users and not self._stop.is_set():
            gevent.sleep(LAG_SECONDS)

    @contextmanager
    def _measured(self) -> Iterator[dict[str, Any]]:
        """The calls that end in the block, by capability and name, and what they cost this process and the machine."""
        result: dict[str, Any] = {}
        LOAD.forget()
        psutil.cpu_percent()  # from here
        start, cpu = time.perf_counter(), time.process_time()
        yield result
        result["seconds"] = wall = time.perf_counter() - start
        result["client_cpu"] = (time.process_time() - cpu) / wall
        result["machine_cpu"] = psutil.cpu_percent() / 100
        result["series"] = [round(seconds, 6) for seconds in LOAD.series]
        result["lags"] = [round(lag, 5) for lag in LOAD.lags]
        names = sorted({*LOAD.times, *LOAD.failures})
        result["calls"] = [
            {
                "capability": capability,
                "name": name,
                "times": [round(seconds, 6) for seconds in LOAD.times[capability, name]],
                "failures": dict(LOAD.failures[capability, name]),
            }
            for capability, name in names
        ]


def main() -> None:
    """Read how to reach the server from the first line, then commands until standard input ends."""
    source = Commands()
    commands = iter(source)
    how = next(commands)
    GrpcUser.token, GrpcUser.deadline = how["token"], how["deadline"]
    for capability in how["capabilities"]:
        kinds(capability)  # their pictures and texts are read now, not while something is measured
    GrpcUser.tls = TLS(**how["tls"]) if how["tls"] else None
    generator = Generator(source, how["target"])
    gevent.spawn(meter_lag)
    print(json.dumps({}), flush=True)
    for command in commands:
        answer = getattr(generator, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
