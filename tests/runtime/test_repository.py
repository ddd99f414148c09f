"""The writer of the repository's state, with files, loader, threads and clock of the tests: any order of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import REGISTRY

from services.errors import NotFound, Unavailable
from services.runtime.files import Folder, Listing
from services.runtime.loader import State, Version
from services.runtime.repository import LOADERS, LONGEST_RETRY_SECONDS, Repository

pytestmark = pytest.mark.unit

NAMES = ("a", "b", "c")
LOAD_SECONDS = 10.0
T = TypeVar("T")


def graph(name: str, version: int) -> SimpleNamespace:
    return SimpleNamespace(config=SimpleNamespace(name=name), version=version, provider="test", close=lambda _: None)


@dataclass
class Disk:
    """Files and loader of the tests: each model has one version, which is good or not."""

    good: dict[str, bool] = field(default_factory=dict)
    raises: dict[str, Exception] = field(default_factory=dict)
    stamps: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    loads: list[str] = field(default_factory=list)
    engine: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="test"))
    root: str = "root"

    @property
    def files(self) -> Disk:
        return self

    def write(self, name: str, good: bool) -> None:
        self.writes += 1
        self.good[name] = good
        self.stamps[name] = self.writes

    def list(self) -> Listing:
        folders = {n: Folder((1,), (("1/card.json", 1, self.stamps[n], 1),)) for n in self.good}
        return Listing(folders, {})

    def load(
        self, name: str, folder: Folder, serving: Mapping[int, Version], had_card: bool = False
    ) -> dict[int, Version]:
        self.loads.append(name)
        if name in self.raises:
            raise self.raises[name]
        if not self.good.get(name):
            return {1: Version(1, State.UNAVAILABLE, "bad")}
        return {1: Version(1, State.READY, graphs={"forward": graph(name, 1)})}  # type: ignore[dict-item]


class Threads:
    """Work that ends when a test says so; listings end at once."""

    def __init__(self) -> None:
        self.running: list[Callable[[], None]] = []

    def __call__(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        if getattr(work, "__name__", "") == "list":
            done(work())
        else:
            self.running.append(lambda: done(_outcome(work)))


def _outcome(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except Exception as error:
        return error


@dataclass
class Bench:
    """A repository on an event loop that the test turns by hand."""

    disk: Disk = field(default_factory=Disk)
    threads: Threads = field(default_factory=Threads)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.repository = Repository(
            self.disk,  # type: ignore[arg-type]
            LOAD_SECONDS,
            clock=lambda: self.now,
            spawn=self.threads,
        )

    def turn(self) -> None:
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(coroutine)
        self.turn()
        return task

    def poll(self) -> None:
        self.repository.check_time()
        self.repository.update(self.disk.list())

    def end(self, which: int = 0) -> None:
        self.threads.running.pop(which % len(self.threads.running))()
        self.turn()

    def settle(self) -> None:
        """Polls, and ends every load, until nothing changes any more."""
        for _ in range(20):
            self.poll()
            while self.threads.running:
                self.end()

    def state(self, name: str) -> State | None:
        versions = self.repository.models.get(name)
        return versions[1].state if versions else None


@pytest.fixture
def bench() -> Bench:
    return Bench()


class Events(RuleBasedStateMachine):
    """Writes, polls, commands, ends of loads and hangs in any order: at rest the state is what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.unloaded: set[str] = set()
        self.commands: list[tuple[str, asyncio.Task[None]]] = []

    names = st.sampled_from(NAMES)

    @rule(name=names, good=st.booleans())
    def write(self, name: str, good: bool) -> None:
        self.bench.disk.write(name, good)

    @rule(name=names)
    def remove(self, name: str) -> None:
        self.bench.disk.good.pop(name, None)

    @rule()
    def poll(self) -> None:
        self.bench.poll()
        self.unloaded &= self.bench.disk.good.keys()  # what comes back later is another model

    @rule(which=st.integers(0, 9))
    def end_a_load(self, which: int) -> None:
        if self.bench.threads.running:
            self.bench.end(which)

    @rule(name=names)
    def load(self, name: str) -> None:
        if name in self.bench.disk.good:
            self.unloaded.discard(name)
        self.commands.append((name, self.bench.begin(self.bench.repository.load_model(name))))

    @rule(name=names)
    def unload(self, name: str) -> None:
        try:
            self.bench.repository.unload_model(name)
        except NotFound:
            return
        self.unloaded.add(name)

    @rule(seconds=st.sampled_from([1.0, LOAD_SECONDS + 1]))
    def time_passes(self, seconds: float) -> None:
        self.bench.now += seconds
        self.bench.repository.check_time()

    @invariant()
    def an_unloaded_model_stays_so(self) -> None:
        for name in self.unloaded:
            assert self.bench.state(name) in (State.UNAVAILABLE, None)

    @invariant()
    def loads_are_few(self) -> None:
        assert len(self.bench.repository._running) <= LOADERS

    def teardown(self) -> None:
        self.bench.settle()
        self.unloaded &= self.bench.disk.good.keys()
        for name in NAMES:
            wanted = None
            if name in self.bench.disk.good:
                good = self.bench.disk.good[name] and name not in self.unloaded
                wanted = State.READY if good else State.UNAVAILABLE
            assert self.bench.state(name) is wanted, name
        for _, command in self.commands:
            assert command.done()
            assert isinstance(command.exception(), Unavailable | NotFound | None)
        self.bench.loop.close()


TestEvents = Events.TestCase
TestEvents.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_loads_of_one_model_at_once_are_one(bench: Bench) -> None:
    bench.disk.write("a", True)
    commands = [bench.begin(bench.repository.load_model("a")) for _ in range(4)]
    bench.poll()
    bench.settle()
    assert bench.disk.loads == ["a"]
    assert all(command.done() and command.exception() is None for command in commands)


def test_a_load_that_began_before_a_change_is_followed_by_another(bench: Bench) -> None:
    bench.disk.write("a", False)
    first = bench.begin(bench.repository.load_model("a"))
    bench.disk.write("a", True)
    second = bench.begin(bench.repository.load_model("a"))
    bench.end()
    bench.end()
    assert first.exception() is None  # what it read was good by then
    assert second.exception() is None
    assert bench.disk.loads == ["a", "a"]


def test_an_unload_ends_the_load_under_way(bench: Bench) -> None:
    bench.disk.write("a", True)
    bench.settle()
    bench.disk.write("a", True)
    load = bench.begin(bench.repository.load_model("a"))
    bench.repository.unload_model("a")
    bench.settle()
    assert bench.state("a") is State.UNAVAILABLE
    assert isinstance(load.exception(), Unavailable)


def test_a_load_that_fails_tells_its_caller_why(bench: Bench) -> None:
    bench.disk.write("a", False)
    load = bench.begin(bench.repository.load_model("a"))
    bench.settle()
    with pytest.raises(Unavailable, match="bad"):
        load.result()


def test_what_fails_is_tried_again_ever_more_rarely_and_at_once_when_a_file_changes(bench: Bench) -> None:
    bench.disk.write("a", False)
    bench.settle()
    for _ in range(1000):
        bench.now += 1
        bench.settle()
    assert 1000 / LONGEST_RETRY_SECONDS < len(bench.disk.loads) < 30
    bench.disk.write("a", True)
    bench.settle()
    assert bench.state("a") is State.READY


def test_a_load_that_hangs_holds_up_nobody_and_counts_when_it_ends(bench: Bench) -> None:
    for name in NAMES:
        bench.disk.write(name, True)
    start = bench.begin(bench.repository.start())
    hanging = bench.threads.running.pop(0)
    while len(bench.threads.running) > 0:
        bench.end()
    bench.now += LOAD_SECONDS + 1
    bench.repository.check_time()
    bench.settle()
    assert [bench.state(name) for name in NAMES] == [State.UNAVAILABLE, State.READY, State.READY]
    assert "more than 10 s" in bench.repository.models["a"][1].reason
    bench.loop.run_until_complete(start)
    bench.settle()
    assert bench.disk.loads.count("a") == 0  # no thread more for what hangs
    hanging()
    assert bench.state("a") is State.READY


def test_a_loader_that_raises_costs_one_model(bench: Bench) -> None:
    for name in NAMES[:2]:
        bench.disk.write(name, True)
    bench.disk.raises["a"] = MemoryError("too much")
    bench.settle()
    assert "MemoryError: too much" in bench.repository.models["a"][1].reason
    assert bench.state("b") is State.READY


def ready_series() -> dict[str, float]:
    return {
        sample.labels["model"]: sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "lectern_model_ready" and sample.labels["model"].startswith("measured")
    }


def test_the_metrics_of_a_version_end_with_it(bench: Bench) -> None:
    bench.disk.write("measured_1", True)
    bench.disk.write("measured_2", False)
    bench.settle()
    assert ready_series() == {"measured_1": 1, "measured_2": 0}
    bench.disk.good.clear()
    bench.settle()
    assert ready_series() == {}
