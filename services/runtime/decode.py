"""Continuous batching: sequences that grow token by token share the steps of one graph, whatever their lengths.

Between any two steps sequences join and leave. Each has a row of the batch, a beam search several. A step is an
ordinary run of the graph, so this is the same on every engine.

A graph can be decoded if its inputs are `length` [N, 1], how many places of a row are filled; for each output `new_X`
[N, H, T, D] the past `X` [N, H, P, D]; and others, which a search gives for each step or once for its sequence.
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
from services.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, ServiceError
from services.runtime.decode_batch import DecodeBatch, Member
from services.runtime.graph import Graph
from services.runtime.search import Search

RETRY_AFTER_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class _Sequence(Member):
    """A search under way.

    The event loop's are `over`, `stepped` and `left`; the rest is the decoding thread's once it was handed over.
    """

    level: int
    deadline: float
    owner: _Owner
    over: asyncio.Future[None]
    enqueued: float
    watched: bool  # whether its caller wants to know of each step
    stepped: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False  # whether its caller went away
    ended: bool = False
    started: float = 0.0


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


def _start_thread(work: Callable[[], None], name: str) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


class Decoder:
    """Decodes with one graph, on a thread that lives while there is something to decode.

    So the event loop's work is done beside the graph's steps and not between them. Searches belong to that thread until
    they end; what a caller may read of one meanwhile, its class says.

    Args:
        clock, start: `time.monotonic` and what starts a thread, or what tests have in their place.
    """

    def __init__(
        self,
        graph: Graph,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None], str], None] = _start_thread,
    ) -> None:
        self._graph = weakref.ref(graph)  # while nothing is decoded, the graph may go
        self._config = config = graph.config
        self._clock, self._start = clock, start
        self._lock = threading.Lock()  # of these two
        self._waiting: list[_Sequence] = []
        self._working = False
        self._batch = DecodeBatch(config)
        self._notices: list[_Notice] = []
        labels = (config.name, str(graph.version))
        self._waiting_gauge = metrics.DECODE_WAITING.labels(*labels)
        self._tokens = metrics.DECODE_TOKENS.labels(*labels)

    @property
    def widest(self) -> int:
        """Most rows that a search may have."""
        return self._config.max_batch_size

    async def finish(self, searches: Sequence[Search], deadline: float, priority: int) -> None:
        """Decode these sequences of one caller to their ends; the first that fails ends the others.

        Raises:
            InvalidArgument: a search is wider than a batch, or the graph cannot take its values.
            ResourceExhausted: too many wait. DeadlineExceeded: the deadline passed. Others as of `Graph.run`.
        """
        sequences = self._add(searches, deadline, priority, watched=False)
        try:
            await asyncio.gather(*(sequence.over for sequence in sequences))
        finally:
            self._leave(sequences)

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
            self._leave(sequences)

    def turn(self, graph: Graph) -> bool:
        """Let sequences join and leave, and take a step of all; whether there is more to do."""
        if not self._arrange():
            return False
        self._tell()
        self._tokens.inc(len(self._batch))
        failed = self._batch.step(graph.run)
        for sequence in self._running:
            if sequence in failed:
                self._end(sequence, failed[sequence])
            elif sequence.wanted is None:
                self._end(sequence)
            elif sequence.watched:
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
        _tell(_Notice(sequence, ended=True) for sequence in added if sequence.search.done)
        with self._lock:
            waiting = sum(s.level == level for s in self._waiting)
            if waiting + len(searches) > most + self.widest:
                metrics.REJECTED.labels(config.name, "queue_full").inc()
                raise ResourceExhausted(
                    f"model {config.name}: {waiting} sequences are waiting, {most} may; try again later",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            self._waiting += (s for s in added if not s.over.done())
            graph = self._graph()
            if self._waiting and not self._working and graph is not None:  # there is one: its caller holds it
                self._working = True
                self._start(partial(self._work, graph), f"{config.name}-decode")
        return added

    def _leave(self, sequences: Sequence[_Sequence]) -> None:
        """Note where the time went; rows of those whose caller went away are free at the next step."""
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
        """What the thread does."""
        try:
            while self.turn(graph):
                pass
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
        now = self._clock()
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
            sequence.owner.running -= 1
        self._batch.leave(over)
        for sequence in admitted:
            if error := self._batch.enter(sequence):
                self._end(sequence, error)
                sequence.owner.running -= 1
                self._batch.leave([sequence])
        return len(self._batch) > 0 or self._arrange()

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
            if reserved > self.widest:
                break
            self._waiting.remove(sequence)
            sequence.owner.running += 1
            sequence.started = now
            admitted.append(sequence)
        return admitted

    def _rest(self) -> None:
        """Let go of everything: the next sequence starts another thread."""
        self._tell()
        self._batch, self._working = DecodeBatch(self._config), False

    def _end(self, sequence: _Sequence, error: ServiceError | None = None) -> None:
        if not sequence.ended:
            sequence.ended = True
            self._notices.append(_Notice(sequence, ended=True, error=error))

    def _tell(self) -> None:
        """Give the event loops of callers their notices, in one hop to each."""
        notices, self._notices = self._notices, []
        by_loop: dict[asyncio.AbstractEventLoop, list[_Notice]] = {}
        for notice in notices:
            by_loop.setdefault(notice.sequence.over.get_loop(), []).append(notice)
        for loop, own in by_loop.items():
            try:
                loop.call_soon_threadsafe(_tell, own)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.warning("the event loop ended before %d sequences did", len(own))


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


class Decoders:
    """The one decoder of each graph, which lives as long as the graph."""

    def __init__(self) -> None:
        self._decoders: WeakKeyDictionary[Graph, Decoder] = WeakKeyDictionary()

    def of(self, graph: Graph) -> Decoder:
        return self._decoders.get(graph) or self._decoders.setdefault(graph, Decoder(graph))
