"""Continuous batching: sequences that grow token by token share the steps of one graph, whatever their lengths.

Sequences join and leave between any two steps. Each has one row of the batch; a beam search has several. A step is an
ordinary run of the graph, so decoding works alike on every engine.

A graph can be decoded if it has these inputs: `length` [N, 1], the number of filled places of a row; for each output
`new_X` [N, H, T, D] the past `X` [N, H, P, D]; and others, which a search provides for each step or once for its
sequence.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

from services import metrics, tracing
from services.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, ServiceError
from services.runtime.decode_batch import DecodeBatch, Member
from services.runtime.decode_prompts import PromptReader
from services.runtime.graph import Graph, run_failure
from services.runtime.search import Search

RETRY_AFTER_SECONDS = 0.5
# A message of each step of many streams took the event loop longer than the step; a reader sees no difference.
NOTICE_SECONDS = 0.02
# A run that reads one prompt takes more than half as long as one that reads two; a row that waits for it is idle.
WAITING_SHARE = 0.25  # of the rows under way
MOST_STEPS_WAITED = 3

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class _Sequence(Member):
    """A search under way.

    The event loop owns `over`, `stepped` and `left`. The decoding thread owns the other fields after the hand-over.
    """

    level: int
    deadline: float
    owner: _Owner
    over: asyncio.Future[None]
    enqueued: float
    watched: bool  # whether its caller waits for each step
    stepped: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False  # whether its caller has gone
    ended: bool = False
    started: float = 0.0
    noticed: float = float("-inf")  # when its caller was told last


@dataclass(slots=True, eq=False)
class _Owner:
    """A caller, with the number of its sequences under way."""

    running: int = 0


@dataclass(frozen=True, slots=True)
class _Notice:
    """An event for the event loop: a sequence took a step or ended, perhaps with an error."""

    sequence: _Sequence
    ended: bool = False
    error: ServiceError | None = None


def _start_thread(work: Callable[[], None], name: str) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


class Decoder:
    """Decodes with one graph, on a thread that lives as long as there are sequences to decode.

    So the event loop works in parallel with the graph's steps and not between them. Searches belong to that thread
    until they end; the class of a search says what its caller may read meanwhile.

    Args:
        clock, start: `time.monotonic` and a function that starts a thread; tests pass their own.
    """

    def __init__(
        self,
        graph: Graph,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None], str], None] = _start_thread,
    ) -> None:
        self._graph = weakref.ref(graph)  # an idle decoder does not keep its graph alive
        self._config = config = graph.config
        self._clock, self._start = clock, start
        self._lock = threading.Lock()  # guards these two
        self._waiting: list[_Sequence] = []
        self._working = False
        self._memory = graph.memory
        self._batch = DecodeBatch(config, self._memory)
        self._reader = PromptReader()
        self._entering: list[_Sequence] = []  # admitted, and not in the batch yet
        self._steps_waited = 0
        self._notices: list[_Notice] = []
        labels = (config.name, str(graph.version))
        self._waiting_gauge = metrics.DECODE_WAITING.labels(*labels)
        self._tokens = metrics.DECODE_TOKENS.labels(*labels)

    @property
    def widest(self) -> int:
        """The most rows that a search may have."""
        return self._config.max_batch_size

    async def finish(self, searches: Sequence[Search], deadline: float, priority: int) -> None:
        """Decode these sequences of one caller to their ends; the first failure ends the others.

        Raises:
            InvalidArgument: a search is wider than a batch, or the graph cannot take its values.
            ResourceExhausted: too many sequences wait. DeadlineExceeded: the deadline passed. Others as `Graph.run`.
        """
        sequences = self._add(searches, deadline, priority, watched=False)
        try:
            await asyncio.gather(*(sequence.over for sequence in sequences))
        finally:
            self._leave(sequences)

    async def steps(self, search: Search, deadline: float, priority: int) -> AsyncGenerator[None, None]:
        """Decode one sequence and yield after its first step, its last, and others at most every NOTICE_SECONDS. A slow
        reader misses more, but no tokens.

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
            self._leave(sequences)

    def turn(self, graph: Graph) -> bool:
        """Let sequences join and leave, then take one step of all; returns whether there is more to do."""
        if not self._arrange():
            return False
        self._send_notices()  # now: the event loop needs the interpreter lock, and the runs that follow release it
        self._enter()
        if not len(self._batch):
            return True
        self._tokens.inc(len(self._batch))
        failed = self._batch.step(graph.run)
        now = self._clock()
        for sequence in self._running:
            if sequence in failed:
                self._end(sequence, failed[sequence])
            elif sequence.wanted is None:
                self._end(sequence)
            elif sequence.watched and now - sequence.noticed >= NOTICE_SECONDS:
                sequence.noticed = now
                self._notices.append(_Notice(sequence))
        return True

    @property
    def _running(self) -> list[_Sequence]:
        return self._batch.members  # type: ignore[return-value]  # nothing else enters it

    def _add(self, searches: Sequence[Search], deadline: float, priority: int, watched: bool) -> list[_Sequence]:
        config = self._config
        if any(search.width > self.widest for search in searches):
            widest = max(search.width for search in searches)
            raise InvalidArgument(
                f"model {config.name} decodes {self.widest} rows at once, and this search has {widest}: "
                "ask for fewer beams"
            )
        level = (priority if 1 <= priority <= len(config.queues) else config.default_priority) - 1
        most = config.queues[level].max_size
        loop, owner, now = asyncio.get_running_loop(), _Owner(), self._clock()
        added = [
            _Sequence(
                search=search,
                level=level,
                deadline=deadline,
                owner=owner,
                over=loop.create_future(),
                enqueued=now,
                watched=watched,
            )
            for search in searches
        ]
        _notify(_Notice(sequence, ended=True) for sequence in added if sequence.search.done)
        with self._lock:
            waiting = sum(s.level == level for s in self._waiting)
            if waiting + len(searches) > most + self.widest:
                metrics.REJECTED.labels(config.name, "queue_full").inc()
                raise ResourceExhausted(
                    f"model {config.name}: {waiting} sequences are waiting, the queue holds {most}; try again later",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            self._waiting += (s for s in added if not s.over.done())
            graph = self._graph()
            if self._waiting and not self._working and graph is not None:  # never None: the caller holds the graph
                self._working = True
                self._start(partial(self._work, graph), f"{config.name}-decode")
        return added

    def _leave(self, sequences: Sequence[_Sequence]) -> None:
        """Record the times of a caller's sequences; those still under way give up their rows at the next step."""
        now = self._clock()
        with self._lock:
            for sequence in sequences:
                sequence.left = True
                if sequence in self._waiting:
                    self._waiting.remove(sequence)
            self._waiting_gauge.set(len(self._waiting))
        for sequence in sequences:
            sequence.over.cancel()
            tracing.current().record("queue", sequence.enqueued, sequence.started or now)
            if sequence.started:
                tracing.current().record("decode", sequence.started, now)

    def _work(self, graph: Graph) -> None:
        """Body of the decoding thread."""
        try:
            while self.turn(graph):
                pass
        except Exception as error:  # whatever it is, the callers must get it
            if not isinstance(error, ServiceError):
                error = run_failure(self._config, error)
            with self._lock:
                for sequence in (*self._entering, *self._running, *self._waiting):
                    self._end(sequence, error)
                self._waiting = []
                self._waiting_gauge.set(0)
                self._rest()

    def _arrange(self) -> bool:
        """Free the rows of ended sequences and admit waiting ones; returns whether there is more to do."""
        now = self._clock()
        with self._lock:
            over = [s for s in self._running if self._is_over(s, now)]
            if self._waiting:
                self._waiting = [s for s in self._waiting if not self._is_over(s, now)]
                reserved = sum(s.search.width for s in self._running if s not in over)
                if not self._wait_for_more(reserved):
                    self._entering = self._admit(now, reserved)
                self._waiting_gauge.set(len(self._waiting))
            if not self._entering and len(over) == len(self._running):
                self._rest()
                return False
        for sequence in over:
            sequence.owner.running -= 1
        self._batch.leave(over)
        return True

    def _enter(self) -> None:
        """Read the prompts of admitted sequences and give them their rows."""
        if not self._entering:
            return
        failed = self._reader.read(self._entering)
        for sequence in self._entering:
            error = failed.get(sequence) or self._batch.enter(sequence)
            if error:
                self._end(sequence, error)
                sequence.owner.running -= 1
        self._entering = []
        self._batch.leave([s for s in self._running if s.ended])

    def _is_over(self, sequence: _Sequence, now: float) -> bool:
        """Whether it has ended, its caller has gone, or its deadline has passed."""
        if sequence.ended or sequence.left:
            return True
        if sequence.deadline <= now:
            metrics.REJECTED.labels(self._config.name, "deadline").inc()
            self._end(sequence, DeadlineExceeded("the deadline passed while tokens were chosen"))
            return True
        return False

    def _wait_for_more(self, reserved: int) -> bool:
        """Whether the prompts that wait are too few to be read now, while many rows are under way."""
        prompts = [sequence.search.prompt for sequence in self._waiting]
        unread = all(prompt and not prompt.key for prompt in prompts)
        waiting = sum(sequence.search.width for sequence in self._waiting)
        few = unread and waiting < WAITING_SHARE * reserved and self._steps_waited < MOST_STEPS_WAITED
        self._steps_waited = self._steps_waited + 1 if few else 0
        return few

    def _admit(self, now: float, reserved: int) -> list[_Sequence]:
        """Take the waiting sequences for which rows are free: by priority, then of the caller with the fewest running.

        Args:
            reserved: rows of the sequences that stay.
        """
        admitted = []
        while self._waiting:
            sequence = min(self._waiting, key=lambda s: (s.level, s.owner.running, s.enqueued))
            reserved += sequence.search.width
            if reserved > self.widest:
                break
            self._waiting.remove(sequence)
            sequence.owner.running += 1
            sequence.started = now
            admitted.append(sequence)
        return admitted

    def _rest(self) -> None:
        """Drop the batch and end this thread's work; the next sequence starts another thread."""
        self._send_notices()
        self._batch, self._entering, self._working = DecodeBatch(self._config, self._memory), [], False

    def _end(self, sequence: _Sequence, error: ServiceError | None = None) -> None:
        if not sequence.ended:
            sequence.ended = True
            self._notices.append(_Notice(sequence, ended=True, error=error))

    def _send_notices(self) -> None:
        """Send the notices to the event loops of the callers, in one hop to each."""
        notices, self._notices = self._notices, []
        by_loop: dict[asyncio.AbstractEventLoop, list[_Notice]] = {}
        for notice in notices:
            by_loop.setdefault(notice.sequence.over.get_loop(), []).append(notice)
        for loop, own in by_loop.items():
            try:
                loop.call_soon_threadsafe(_notify, own)
            except RuntimeError:  # the loop is closed, so no caller waits
                log.warning("the event loop ended before %d sequences did", len(own))


def _notify(notices: Iterable[_Notice]) -> None:
    """Wake the callers that wait; runs on their event loop."""
    for notice in notices:
        sequence = notice.sequence
        if notice.ended and not sequence.over.done():
            if notice.error:
                sequence.over.set_exception(notice.error)
                sequence.over.exception()  # retrieved, in case its caller has gone
            else:
                sequence.over.set_result(None)
        sequence.stepped.set()


class Decoders:
    """One decoder per graph, which lives as long as its graph."""

    def __init__(self) -> None:
        self._decoders: WeakKeyDictionary[Graph, Decoder] = WeakKeyDictionary()

    def of(self, graph: Graph) -> Decoder:
        return self._decoders.get(graph) or self._decoders.setdefault(graph, Decoder(graph))
