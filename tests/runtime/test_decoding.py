"""Sequences that join, leave, fail and are given up while they share a batch, on a thread that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import hypothesis.strategies as st
import numpy as np
import onnxruntime
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, ServiceError, Unavailable
from services.runtime.config import TensorSpec
from services.runtime.decode import Decoder
from services.runtime.device_memory import DeviceMemory
from services.runtime.graph import HOST, Array, Memory, Tensor
from services.runtime.onnx_runner import CPU
from services.runtime.search import Prompt, Rows
from tests.runtime.fakes import FOREVER, Clock, Loop, graph_config

TOKENS = 97
REFUSED = -1  # by the graph
CONFIG = {
    "inputs": (
        TensorSpec("tokens", "INT64", (1,)),
        TensorSpec("length", "INT64", (1,)),
        TensorSpec("memory", "INT64", (-1,)),
        TensorSpec("memory_length", "INT64", (1,)),
        TensorSpec("past", "INT64", (1, -1, 1)),
    ),
    "outputs": (TensorSpec("next", "INT64", (1,)), TensorSpec("new_past", "INT64", (1, 1, 1))),
}


def following(history: list[int], memory: Array) -> int:
    """The next token of a row: it depends on everything before it."""
    return int(sum(token * (place + 1) for place, token in enumerate(history)) + memory.sum()) % TOKENS


class Graph:
    """Gives `following` of each row, from the arrays alone; refuses batches with a bad token."""

    version, provider = 1, "fake"

    def __init__(self, max_batch_size: int, queue_size: int = 512, memory: Memory = HOST) -> None:
        self.memory = memory
        self.config = graph_config(max_batch_size, queue_size=queue_size, **CONFIG)  # type: ignore[arg-type]
        self.runs: list[int] = []
        self.error: Exception | None = None

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
        tokens, lengths, past = inputs["tokens"], inputs["length"], inputs["past"]
        assert len(tokens) <= self.config.max_batch_size
        self.runs.append(len(tokens))
        if self.error:
            raise self.error
        if (tokens == REFUSED).any():
            raise InvalidArgument("bad token")
        histories = (
            [*p[0, : n[0], 0].tolist(), t[0]] for p, n, t in zip(past, lengths.tolist(), tokens.tolist(), strict=True)
        )
        memories = (m[: n[0]] for m, n in zip(inputs["memory"], inputs["memory_length"], strict=True))
        chosen = [[following(h, m)] for h, m in zip(histories, memories, strict=True)]
        return {"next": np.array(chosen), "new_past": tokens[:, None, :, None].reshape(-1, 1, 1, 1)}

    async def infer(self, *_: object) -> dict[str, Array]:
        raise NotImplementedError

    async def healthy(self) -> bool:
        return True

    def close(self, seconds: float) -> None:
        """Nothing to free."""


@dataclass(eq=False)
class Walk:
    """A search that checks each token against `following` of what it had itself.

    Args:
        width: rows, which it takes from its second step on.
        steps: until it is over.
        fault: what goes wrong halfway: "graph" = the graph refuses its token, "search" = it raises, "greedy" = it
            wants more rows than it said, "shape" = its token has a wrong shape, "past" = so has its past, at once.
    """

    width: int
    steps: int
    start: int
    fault: str = ""
    length: int = 2
    prompt: Prompt | None = None
    begun: bool = False
    taken: int = 0
    histories: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        length = self.start % 40 + 1
        self.constants = {"memory": np.arange(length) + self.start, "memory_length": np.array([length])}
        prompt = [self.start % TOKENS, (self.start + 1) % TOKENS]
        places = 3 if self.fault == "past" else 2
        self.past = {"past": np.resize(np.array(prompt), (1, places, 1 if places == 2 else 5))}
        self.histories = [[*prompt, self.start % TOKENS]]
        self.first = Rows([0], {"tokens": np.array([[self.start % TOKENS]])})

    def begin(self, outputs: Mapping[str, Array]) -> None:
        self.begun = True

    @property
    def done(self) -> bool:
        return self.taken >= self.steps

    def advance(self, outputs: Mapping[str, Array]) -> Rows | None:
        expected = [[following(history, self.constants["memory"])] for history in self.histories]
        assert outputs["next"].tolist() == expected, "rows were mixed up"
        self.taken += 1
        if self.done:
            return None
        halfway = self.taken == self.steps // 2
        if halfway and self.fault == "search":
            raise ValueError("a fault of the search")
        rows = self.width + (halfway and self.fault == "greedy")
        parents = [(self.taken + row * row) % len(self.histories) for row in range(rows)]
        tokens = [(expected[p][0] + row) % TOKENS for row, p in enumerate(parents)]
        self.histories = [[*self.histories[p], token] for p, token in zip(parents, tokens, strict=True)]
        array = np.array(tokens)[:, None]
        if halfway and self.fault == "graph":
            array[-1] = REFUSED
        if halfway and self.fault == "shape":
            array = np.zeros((rows, 7), np.int64)
        return Rows(parents, {"tokens": array})


class Bench:
    """A decoder whose thread the test plays."""

    def __init__(self, max_batch_size: int, queue_size: int = 512, memory: Memory = HOST) -> None:
        self.clock = Clock()
        self.loop, self.other_loop = Loop(self.clock), Loop(self.clock)
        self.graph = Graph(max_batch_size, queue_size, memory)
        self.decoder = Decoder(self.graph, self.clock, self._start)
        self.working = False

    def _start(self, work: Callable[[], None], name: str) -> None:
        assert not self.working
        self.working = True

    def add(self, *walks: Walk, patience: float = FOREVER, elsewhere: bool = False) -> asyncio.Task[None]:
        loop = self.other_loop if elsewhere else self.loop
        task = loop.create_task(self.decoder.finish(walks, self.clock.now + patience, 0))
        self.settle()
        return task

    def turn(self) -> None:
        self.working = self.decoder.turn(self.graph)
        self.settle()

    def settle(self) -> None:
        self.loop.settle()
        self.other_loop.settle()

    def close(self) -> None:
        for loop in (self.loop, self.other_loop):
            assert not loop.errors
            loop.close()

    def run(self) -> None:
        while self.working:
            self.turn()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(max_batch_size=4)
    yield bench
    bench.close()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("graph", InvalidArgument),
        ("search", Internal),
        ("greedy", Internal),
        ("shape", Internal),
        ("past", Internal),
    ],
)
def test_one_bad_sequence_fails_alone(bench: Bench, fault: str, error: type[ServiceError]) -> None:
    good = [bench.add(Walk(1, 9, start)) for start in (3, 30)]
    bad = bench.add(Walk(1, 9, 50, fault))
    good.append(bench.add(Walk(1, 9, 70)))
    bench.run()
    assert type(bad.exception()) is error
    assert [task.exception() for task in good] == [None] * 3


def test_a_bad_row_of_a_full_batch_is_found_in_few_runs() -> None:
    bench = Bench(max_batch_size=64)
    tasks = [bench.add(Walk(1, 2, start, "graph" if start == 17 else "")) for start in range(64)]
    bench.run()
    assert [type(task.exception()) for task in tasks].count(InvalidArgument) == 1
    assert len(bench.graph.runs) <= 1 + 1 + 2 * 6
    bench.close()


def test_a_search_wider_than_the_batch_is_refused_at_once(bench: Bench) -> None:
    error = bench.add(Walk(5, 3, 1)).exception()
    assert isinstance(error, InvalidArgument)
    assert "4 rows" in error.message and "fewer beams" in error.message  # noqa: PT018
    assert not bench.working


def test_a_search_gets_no_more_rows_than_it_asked_for(bench: Bench) -> None:
    task = bench.add(Walk(1, 9, 1, "greedy"))
    bench.run()
    assert isinstance(task.exception(), Internal)


def test_the_first_failure_of_a_caller_ends_his_other_sequences(bench: Bench) -> None:
    task = bench.add(Walk(1, 100, 1), Walk(1, 2, 2, "search"))
    bench.turn()
    bench.turn()  # told before the next step, which has the other one yet
    assert isinstance(task.exception(), Internal)
    bench.turn()
    assert not bench.working


def test_a_prompt_waits_a_few_steps_for_others_while_many_rows_are_under_way() -> None:
    bench = Bench(max_batch_size=16)
    fields = ("tokens", "length", "memory", "memory_length")
    inputs = dict.fromkeys(fields, np.zeros((1, 1), np.int64)) | {"past": np.zeros((1, 1, 1, 1), np.int64)}
    alone, *pair = (Walk(1, 1, start, prompt=Prompt(bench.graph, inputs)) for start in (50, 60, 70))
    tasks = [bench.add(Walk(1, 30, start)) for start in range(8)]
    bench.turn()
    tasks.append(bench.add(alone))
    read = []
    for _ in range(4):
        bench.turn()
        read.append(alone.begun)
    assert read == [False, False, False, True]
    tasks += [bench.add(walk) for walk in pair]
    bench.turn()
    assert [walk.begun for walk in pair] == [True, True]
    bench.run()
    assert [task.exception() for task in tasks] == [None] * 11
    bench.close()


def test_who_leaves_the_queue_makes_room_in_it() -> None:
    bench = Bench(max_batch_size=1, queue_size=1)
    running = bench.add(Walk(1, 5, 1))
    bench.turn()
    waiting = [bench.add(Walk(1, 5, start)) for start in (2, 3)]
    refused = bench.add(Walk(1, 5, 4))
    assert isinstance(refused.exception(), ResourceExhausted)
    waiting[0].cancel()
    bench.settle()
    last = bench.add(Walk(1, 5, 5))
    bench.run()
    assert [task.exception() for task in (running, waiting[1], last)] == [None] * 3
    bench.close()


def test_a_graph_that_is_gone_ends_them_all(bench: Bench) -> None:
    works: list[Callable[[], None]] = []
    bench.decoder = Decoder(bench.graph, bench.clock, lambda work, _: works.append(work))
    tasks = [bench.add(Walk(1, 5, start)) for start in range(6)]
    bench.graph.error = Unavailable("gone")
    works[0]()
    bench.settle()
    assert [type(task.exception()) for task in tasks] == [Unavailable] * 6
    bench.graph.error = None
    again = bench.add(Walk(1, 5, 1))
    works[1]()
    bench.settle()
    assert again.exception() is None


class Decoding(RuleBasedStateMachine):
    """A batch of four rows; searches of one to four come, fail in every way, and are given up."""

    ROWS = 4
    memory: Memory = HOST

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(self.ROWS, 8, self.memory)
        self.callers: list[tuple[asyncio.Task[None], tuple[Walk, ...]]] = []
        self.starts = 0

    @rule(
        widths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        steps=st.integers(1, 40),
        fault=st.sampled_from(["", "", "", "graph", "search", "greedy", "shape", "past"]),
        patience=st.sampled_from([FOREVER, FOREVER, 5.0]),
        elsewhere=st.booleans(),
    )
    def add(self, widths: list[int], steps: int, fault: str, patience: float, elsewhere: bool) -> None:
        walks = tuple(Walk(w, steps, self.starts + i, fault if not i else "") for i, w in enumerate(widths))
        self.starts += 7
        self.callers.append((self.bench.add(*walks, patience=patience, elsewhere=elsewhere), walks))

    @precondition(lambda self: self.bench.working)
    @rule(turns=st.integers(1, 10))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            if self.bench.working:
                self.bench.turn()

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.callers))[0].cancel()
        self.bench.settle()

    @rule()
    def wait(self) -> None:
        self.bench.clock.now += 3.0

    @invariant()
    def each_row_has_one_owner(self) -> None:
        batch = self.bench.decoder._batch
        assert sorted(row for member in batch.members for row in member.rows) == list(range(len(batch)))
        assert all(batch._owners[row] is member for member in batch.members for row in member.rows)
        assert sum(member.search.width for member in batch.members) <= self.ROWS

    @invariant()
    def cancellation_frees_at_once(self) -> None:
        waiting = {id(sequence.search) for sequence in self.bench.decoder._waiting}
        gone = {id(walk) for task, walks in self.callers if task.done() for walk in walks}
        assert not waiting & gone

    @invariant()
    def there_is_work_while_somebody_waits(self) -> None:
        decoder = self.bench.decoder
        assert self.bench.working == decoder._working
        assert self.bench.working or not decoder._waiting

    def teardown(self) -> None:
        self.bench.run()
        for task, walks in self.callers:
            assert task.done()
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                assert all(walk.done for walk in walks)
            else:
                faulty = bool(walks[0].fault) and isinstance(error, (InvalidArgument, Internal))
                assert faulty or isinstance(error, (DeadlineExceeded, ResourceExhausted))
        assert not self.bench.decoder._waiting
        self.bench.close()


TestDecoding = Decoding.TestCase
TestDecoding.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


class DeviceDecoding(Decoding):
    """The same, with the rows in the memory of a device, which here is the CPU."""

    memory = DeviceMemory(lambda content: onnxruntime.InferenceSession(content, providers=[CPU]), "cpu")


TestDeviceDecoding = DeviceDecoding.TestCase
TestDeviceDecoding.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
