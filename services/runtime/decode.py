"""Continuous batching: sequences that grow token by token share the steps of one graph, whatever their lengths.

Between any two steps sequences join and leave. Each has a row of the batch, a beam search several. The keys and values
of its past lie in arrays that all rows share, and that the graph reads where they are: a step adds one place to each
row and copies nothing else. A step is an ordinary run of the graph, so this is the same on every engine.

A graph can be decoded if its inputs are `length` [N, 1], how many places of a row are filled; for each output `new_X`
[N, H, T, D] the past `X` [N, H, P, D]; and others, which a search gives for each step or once for its sequence.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from services import metrics, tracing
from services.errors import DeadlineExceeded, Internal, ResourceExhausted, ServiceError
from services.runtime.graph import Array, Graph

NEW = "new_"
LENGTH = "length"
BLOCK = 16  # places that room is made for at once
SPARE = 32  # places that may stay empty in every row
RETRY_AFTER_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a search wants of the next step.

    Args:
        parents: for each row, which of the search's rows of the step before it goes on from.
        inputs: by name, [rows, ...].
    """

    parents: Sequence[int]
    inputs: Mapping[str, Array]


class Search(Protocol):
    """What chooses the tokens of one sequence.

    Attributes:
        width: most rows that it has at once.
        length: places that are filled before the first step.
        past: keys and values [H, length, D] of these, by name; may be empty if there are none.
        constants: inputs [...] that are the same in each step, by name; a length that varies comes second.
        first: the first step, of one row.
    """

    width: int
    length: int
    past: Mapping[str, Array]
    constants: Mapping[str, Array]
    first: Rows

    @property
    def done(self) -> bool:
        """Whether it is over, perhaps before its first step."""

    def advance(self, outputs: Mapping[str, Array]) -> Rows | None:
        """Take the outputs [rows, ...] of a step; None ends the sequence."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """A search under way: rows of the batch, and what it wants of the next step.

    The event loop's are `over`, `stepped` and `left`; the rest is the decoding thread's once it was handed over.
    """

    search: Search
    level: int
    deadline: float
    owner: _Owner
    over: asyncio.Future[None]
    watched: bool  # whether its caller wants to know of each step
    stepped: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False  # whether its caller went away
    ended: bool = False
    enqueued: float = field(default_factory=time.monotonic)
    started: float = 0.0
    rows: list[int] = field(default_factory=list)
    wanted: Rows | None = None


@dataclass(slots=True, eq=False)
class _Owner:
    """A caller, with how many of its sequences are under way."""

    running: int = 0


@dataclass(frozen=True, slots=True)
class _Notice:
    """What the event loop is to hear of a sequence: that it took a step or ended, perhaps by an error."""

    sequence: _Sequence
    ended: bool = False
    error: ServiceError | None = None


class Decoder:
    """Decodes with one graph, on a thread that lives while there is something to decode.

    So the event loop's work is done beside the graph's steps and not between them. Searches belong to that thread until
    they end; what a caller may read of one meanwhile, its class says.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = weakref.ref(graph)  # while nothing is decoded, the graph may go
        self._config = config = graph.config
        self._most_rows = config.max_batch_size
        self._caches = {o.name.removeprefix(NEW) for o in config.outputs if o.name.startswith(NEW)}
        self._specs = {spec.name: spec for spec in config.inputs}
        self._varying = {spec.name: spec.shape.index(-1) for spec in config.inputs if -1 in spec.shape}
        self._lock = threading.Lock()  # of these three
        self._waiting: list[_Sequence] = []
        self._working = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._buffers: dict[str, Array] = {}
        self._owners: list[_Sequence] = []  # of each row
        self._running: list[_Sequence] = []
        self._notices: list[_Notice] = []
        labels = (config.name, str(graph.version))
        self._waiting_gauge = metrics.DECODE_WAITING.labels(*labels)
        self._tokens = metrics.DECODE_TOKENS.labels(*labels)

    async def finish(self, searches: Sequence[Search], deadline: float, priority: int) -> None:
        """Decode these sequences of one caller to their ends.

        Raises:
            ResourceExhausted: too many wait. DeadlineExceeded: the deadline passed. Others as of `Graph.run`.
        """
        sequences = self._add(searches, deadline, priority, watched=False)
        try:
            for sequence in sequences:
                await sequence.over
        finally:
            _leave(sequences)

    async def steps(self, search: Search, deadline: float, priority: int) -> AsyncGenerator[None, None]:
        """Decode one sequence; yields after its steps, and ends with it. A slow reader misses steps, not tokens.

        Raises:
            As `finish`.
        """
        (sequence,) = sequences = self._add([search], deadline, priority, watched=True)
        try:
            while not sequence.over.done():
                await sequence.stepped.wait()
                sequence.stepped.clear()
                if not sequence.over.done():
                    yield
            await sequence.over
            yield
        finally:
            _leave(sequences)

    def _add(self, searches: Sequence[Search], deadline: float, priority: int, watched: bool) -> list[_Sequence]:
        config = self._config
        level = (priority if 1 <= priority <= len(config.queues) else config.default_priority) - 1
        most = config.queues[level].max_size
        loop, owner = asyncio.get_running_loop(), _Owner()
        added = [_Sequence(s, level, deadline, owner, loop.create_future(), watched) for s in searches]
        for sequence in added:
            if sequence.search.done:
                _tell([_Notice(sequence, ended=True)])
        with self._lock:
            waiting = sum(s.level == level for s in self._waiting)
            if waiting + len(searches) > most + self._most_rows:
                metrics.REJECTED.labels(config.name, "queue_full").inc()
                raise ResourceExhausted(
                    f"model {config.name}: {waiting} sequences are waiting, {most} may; try again later",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            self._waiting += (s for s in added if not s.over.done())
            graph = self._graph()
            if self._waiting and not self._working and graph is not None:  # there is one: its caller holds it
                self._working, self._loop = True, loop
                threading.Thread(target=self._work, args=(graph,), name=f"{config.name}-decode", daemon=True).start()
        return added

    def _work(self, graph: Graph) -> None:
        """What the thread does."""
        try:
            while self._arrange():
                self._tell()
                self._step(graph)
        except Exception as error:  # whatever it is, its callers must hear of it
            if not isinstance(error, ServiceError):
                log.exception("decoding with %s failed", self._config.name)
                error = Internal(f"model {self._config.name} failed on this input")
            with self._lock:
                for sequence in (*self._running, *self._waiting):
                    self._end(sequence, error)
                self._waiting = []
                self._waiting_gauge.set(0)
                self._rest()

    def _arrange(self) -> bool:
        """Free the rows of sequences that are over and give them to those who wait; whether there is more to do."""
        now = time.monotonic()
        with self._lock:
            over = [s for s in self._running if self._is_over(s, now)]
            admitted: list[_Sequence] = []
            if self._waiting:
                self._waiting = [s for s in self._waiting if not self._is_over(s, now)]
                admitted = self._admit(now, sum(s.search.width for s in self._running if s not in over))
                self._waiting_gauge.set(len(self._waiting))
            if not admitted and len(over) == len(self._running):
                self._rest()
                return False
        for sequence in over:
            self._running.remove(sequence)
            sequence.owner.running -= 1
            while sequence.rows:
                self._free(sequence)
        for sequence in admitted:
            self._enter(sequence)
        if over:
            self._trim()
        return True

    def _is_over(self, sequence: _Sequence, now: float) -> bool:
        """Whether it ended, its caller went away, or its time is up."""
        if sequence.ended or sequence.left:
            return True
        if sequence.deadline <= now:
            metrics.REJECTED.labels(self._config.name, "deadline").inc()
            self._end(sequence, DeadlineExceeded("the deadline passed while tokens were chosen"))
            return True
        return False

    def _admit(self, now: float, reserved: int) -> list[_Sequence]:
        """Those of who wait that rows are left for: by priority, then of the caller who has the fewest under way."""
        admitted = []
        while self._waiting:
            sequence = min(self._waiting, key=lambda s: (s.level, s.owner.running, s.enqueued))
            reserved += sequence.search.width
            if reserved > self._most_rows:
                break
            self._waiting.remove(sequence)
            sequence.owner.running += 1
            sequence.started = now
            admitted.append(sequence)
        return admitted

    def _rest(self) -> None:
        """Let go of everything: the next sequence starts another thread."""
        self._tell()
        self._buffers, self._owners, self._running, self._working = {}, [], [], False

    def _end(self, sequence: _Sequence, error: ServiceError | None = None) -> None:
        if not sequence.ended:
            sequence.ended = True
            self._notices.append(_Notice(sequence, ended=True, error=error))

    def _tell(self) -> None:
        """Give the event loop its notices, in one hop."""
        if self._notices and self._loop:
            notices, self._notices = self._notices, []
            try:
                self._loop.call_soon_threadsafe(_tell, notices)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.warning("the event loop ended before %d sequences did", len(notices))

    def _enter(self, sequence: _Sequence) -> None:
        search = sequence.search
        self._running.append(sequence)
        row = self._take_row(sequence)
        self._buffer(LENGTH, (1,))[row] = search.length
        for name, value in (*search.past.items(), *search.constants.items()):
            place: tuple[int | slice, ...] = (row, *(slice(0, size) for size in value.shape))
            self._buffer(name, value.shape)[place] = value
        sequence.wanted = search.first

    def _step(self, graph: Graph) -> None:
        """Run the graph once for all rows, and let each search choose."""
        count = len(self._owners)
        needed = int(self._buffer(LENGTH, (1,))[:count].max()) + 1
        for name in self._caches:
            if name not in self._buffers or self._buffers[name].shape[2] < needed:
                self._buffer(name, tuple(needed if d < 0 else d for d in self._specs[name].shape))
        inputs = {name: buffer[:count] for name, buffer in self._buffers.items()}
        for name in self._specs.keys() - inputs.keys():
            inputs[name] = self._gathered(name, count)
        outputs = graph.run(inputs)
        self._tokens.inc(count)
        lengths, every = self._buffers[LENGTH], np.arange(count)
        for name in self._caches:
            # Rows that are gone by now are written too: nobody reads them.
            self._buffers[name][every, :, lengths[:count, 0]] = outputs[NEW + name][:, :, 0]
        lengths[:count] += 1
        chosen = {name: value for name, value in outputs.items() if not name.startswith(NEW)}
        for sequence in self._running:
            rows = _indices(sequence.rows)
            sequence.wanted = sequence.search.advance({name: value[rows] for name, value in chosen.items()})
            if sequence.wanted is None:
                self._end(sequence)
            else:
                self._follow(sequence, sequence.wanted.parents)
                if sequence.watched:
                    self._notices.append(_Notice(sequence))

    def _gathered(self, name: str, count: int) -> Array:
        """What the searches give for this step, in the order of rows."""
        spec = self._specs[name]
        array = np.zeros((count, *(1 if d < 0 else d for d in spec.shape)), spec.dtype)
        for sequence in self._running:
            if sequence.wanted is not None:
                array[_indices(sequence.rows)] = sequence.wanted.inputs[name]
        return array

    def _follow(self, sequence: _Sequence, parents: Sequence[int]) -> None:
        """Give a sequence a row for each of `parents`, with what that parent has."""
        before = list(sequence.rows)
        while len(sequence.rows) < len(parents):
            self._take_row(sequence)
        sources = [before[parent] for parent in parents]
        moved = [i for i, source in enumerate(sources) if sequence.rows[i] != source]
        if moved:
            to, of = [sequence.rows[i] for i in moved], [sources[i] for i in moved]
            filled = int(self._buffers[LENGTH][before[0], 0])
            for name, buffer in self._buffers.items():
                if name in self._caches:
                    buffer[to, :, :filled] = buffer[of, :, :filled]
                elif len(before) < len(parents):  # constants differ only where a row is new
                    buffer[to] = buffer[of]
        while len(sequence.rows) > len(parents):
            self._free(sequence)

    def _take_row(self, sequence: _Sequence) -> int:
        row = len(self._owners)
        self._owners.append(sequence)
        sequence.rows.append(row)
        for name, buffer in self._buffers.items():
            if row == len(buffer):
                self._buffer(name, buffer.shape[1:])
        return row

    def _free(self, sequence: _Sequence) -> None:
        """Take a sequence's last row away; the batch's last row moves into its place."""
        row, last = sequence.rows.pop(), len(self._owners) - 1
        mover = self._owners.pop()
        if row != last:
            for buffer in self._buffers.values():
                buffer[row] = buffer[last]
            mover.rows[mover.rows.index(last)] = row
            self._owners[row] = mover

    def _buffer(self, name: str, shape: Sequence[int]) -> Array:
        """The rows of an input, with room for all rows there are, which doubles, and for items of `shape`."""
        spec = self._specs[name]
        rows = min(1 << max(0, len(self._owners) - 1).bit_length(), self._most_rows)
        room = tuple(_blocks(size) if d < 0 else d for d, size in zip(spec.shape, shape, strict=True))
        present = self._buffers.get(name)
        if present is not None:
            rows = max(rows, len(present))
            room = tuple(max(a, b) for a, b in zip(room, present.shape[1:], strict=True))
            if present.shape == (rows, *room):
                return present
        buffer: Array = np.zeros((rows, *room), spec.dtype)
        if present is not None:
            buffer[tuple(slice(0, size) for size in present.shape)] = present
        self._buffers[name] = buffer
        return buffer

    def _trim(self) -> None:
        """Give up room that the sequences that ended had needed: attention takes its time for empty places too."""
        filled = int(self._buffers[LENGTH][: len(self._owners)].max()) + 1
        for name, buffer in self._buffers.items():
            if name not in self._varying:
                continue
            axis = self._varying[name]
            needed = (
                filled if name in self._caches else max(s.search.constants[name].shape[axis] for s in self._running)
            )
            if buffer.shape[1 + axis] - _blocks(needed) >= SPARE:
                kept = (*(slice(None) for _ in range(1 + axis)), slice(_blocks(needed)))
                self._buffers[name] = buffer[kept].copy()


def _indices(rows: list[int]) -> list[int] | slice:
    """A view where there is one row, as numpy takes several times as long to gather."""
    return slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows


def _leave(sequences: Sequence[_Sequence]) -> None:
    """Note where the time went; rows of those whose caller went away are free at the next step."""
    now = time.monotonic()
    for sequence in sequences:
        sequence.left = True
        sequence.over.cancel()
        tracing.current().record("queue", sequence.enqueued, sequence.started or now)
        if sequence.started:
            tracing.current().record("decode", sequence.started, now)


def _tell(notices: Iterable[_Notice]) -> None:
    """On the event loop: wake who waits."""
    for notice in notices:
        sequence = notice.sequence
        if notice.ended and not sequence.over.done():
            if notice.error:
                sequence.over.set_exception(notice.error)
                sequence.over.exception()  # seen, should its caller have gone
            else:
                sequence.over.set_result(None)
        sequence.stepped.set()


def _blocks(size: int) -> int:
    """Room for `size` places."""
    return max(1, -(-size // BLOCK)) * BLOCK


class Decoders:
    """The one decoder of each graph, which lives as long as the graph."""

    def __init__(self) -> None:
        self._decoders: WeakKeyDictionary[Graph, Decoder] = WeakKeyDictionary()

    def of(self, graph: Graph) -> Decoder:
        return self._decoders.get(graph) or self._decoders.setdefault(graph, Decoder(graph))
