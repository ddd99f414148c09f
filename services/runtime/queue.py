"""The queue of one graph: the waiting requests, and which of them form the next batch."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from services.errors import ServiceError
from services.runtime.batches import Kind
from services.runtime.graph import Array


@dataclass(slots=True, eq=False)
class Run:
    """One run: how many rows of how many requests, and its start and end in the clock's seconds."""

    rows: int
    requests: int
    started: float
    ended: float = float("inf")
    number: int = field(default_factory=partial(random.getrandbits, 64))


@dataclass(slots=True, eq=False)
class Lane:
    """Totals over the waiting requests of one priority and kind.

    Args:
        left: rows that no run has taken yet.
        turn: those of them that belong to their request's current turn.
    """

    left: int = 0
    turn: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """One caller's arrays, in the order of the config's inputs; answered through `future`, on its event loop.

    Args:
        kind: only requests of the same kind run together.
        length: length of a row if requests of different lengths run together, else 1.
        rows: items in each array; 1 for a graph without a batch axis.
        deadline: latest start of its run, in the clock's seconds; `inf` = any time.
        level: its priority, 0 = first.
        enqueued: when it arrived.
        taken: rows that runs have taken.
        turn: rows that it may still take before the other requests have their turn.
        answered: rows whose outputs have arrived.
        runs: the runs that took rows of it.
        lane: the totals that it counts towards while it is queued.
    """

    arrays: tuple[Array, ...]
    kind: Kind
    length: int
    rows: int
    deadline: float
    level: int
    future: asyncio.Future[list[Array]]
    enqueued: float
    taken: int = 0
    turn: int = 0
    answered: int = 0
    answers: dict[int, list[Array]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    lane: Lane = field(init=False)

    @property
    def left(self) -> int:
        """Rows that no run has taken yet."""
        return self.rows - self.taken


@dataclass(slots=True, eq=False)
class Part:
    """Rows `start` to `stop` of a request: all of them, unless it is larger than a batch."""

    request: Request
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def arrays(self) -> tuple[Array, ...]:
        if self.rows == self.request.rows:
            return self.request.arrays
        return tuple(a[self.start : self.stop] for a in self.request.arrays)

    def resolve(self, answer: list[Array] | ServiceError) -> None:
        """Store these rows' outputs; the last part to arrive answers the caller. Runs on the caller's loop."""
        request = self.request
        if request.future.done():
            return
        if isinstance(answer, ServiceError):
            request.future.set_exception(answer)
            return
        if self.rows == request.rows:
            request.future.set_result(answer)
            return
        request.answers[self.start] = answer
        request.answered += self.rows
        if request.answered == request.rows:
            parts = [request.answers[start] for start in sorted(request.answers)]
            request.future.set_result([np.concatenate(column) for column in zip(*parts, strict=True)])


class Work(NamedTuple):
    """What runs before the last batch of a request, in `batches` and `places` (rows times length), and the places of
    that `last` batch."""

    batches: int
    places: int
    last: int


class Queue:
    """Requests by priority, each level first in, first out. Not thread-safe: its scheduler holds a lock.

    In its turn a request may fill one batch of its kind. For its next turn it goes to the back of its level, so that
    one caller's thousand items do not hold up another caller's single item.

    Args:
        levels: how many priorities there are.
    """

    def __init__(self, levels: int) -> None:
        self._levels: tuple[deque[Request], ...] = tuple(deque() for _ in range(levels))
        self._lanes: tuple[dict[Kind, Lane], ...] = tuple({} for _ in range(levels))
        self.rows = 0  # that no run has taken yet

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def length(self, level: int) -> int:
        """How many requests of this priority wait."""
        return len(self._levels[level])

    def oldest(self) -> float:
        """When the request that has waited longest arrived; the queue must not be empty."""
        return min(level[0].enqueued for level in self._levels if level)

    def add(self, request: Request) -> None:
        request.turn = request.kind.rows
        request.lane = self._lanes[request.level].setdefault(request.kind, Lane())
        self._levels[request.level].append(request)
        self._count(request, 1)

    def remove(self, request: Request) -> bool:
        """Remove a request; returns whether it was queued."""
        try:
            self._levels[request.level].remove(request)
        except ValueError:
            return False
        self._count(request, -1)
        return True

    def work(self, request: Request) -> Work:
        """The work up to the last batch of a request that arrives now."""
        size, length = request.kind.rows, request.kind.length
        ahead = [(kind, lane.left) for lanes in self._lanes[: request.level] for kind, lane in lanes.items()]
        turns = -(-request.rows // size)
        if turns == 1:
            ahead += [(kind, lane.turn) for kind, lane in self._lanes[request.level].items()]
        else:
            rows: Counter[Kind] = Counter()
            for other in self._levels[request.level]:
                rows[other.kind] += min(other.left, other.turn + (turns - 1) * other.kind.rows)
            ahead += rows.items()
        own, places, batches = request.rows, 0, 0
        for kind, count in ahead:
            if kind == request.kind:
                own += count
            else:
                places += count * kind.length
                batches += -(-count // kind.rows)
        full = (own - 1) // size
        return Work(batches + full, places + full * size * length, (own - full * size) * length)

    def waiting(self) -> Counter[Kind]:
        """Number of waiting rows of each kind."""
        rows: Counter[Kind] = Counter()
        for lanes in self._lanes:
            for kind, lane in lanes.items():
                rows[kind] += lane.left
        return rows

    def take(self, now: float) -> tuple[list[Part], list[Request]]:
        """The next batch, and the requests whose deadline has passed.

        The first request in time determines the kind; rows of others of that kind fill the batch.
        """
        batch: list[Part] = []
        late: list[Request] = []
        room = 1  # until the first request determines the kind, and so the size of the batch
        for level in self._levels:
            passed: list[Request] = []
            while level and room:
                request = level.popleft()
                self._count(request, -1)
                if request.deadline <= now and not request.taken:
                    late.append(request)
                    continue
                if not batch:
                    room = request.kind.rows
                if not batch or request.kind == batch[0].request.kind:
                    part = Part(request, request.taken, request.taken + min(request.left, request.turn, room))
                    batch.append(part)
                    room -= part.rows
                    request.taken = part.stop
                    request.turn -= part.rows
                    if not request.left:
                        continue
                if request.turn:
                    passed.append(request)
                else:
                    request.turn = request.kind.rows
                    level.append(request)
                request.lane = self._lanes[request.level].setdefault(request.kind, request.lane)
                self._count(request, 1)
            level.extendleft(reversed(passed))
        return batch, late

    def _count(self, request: Request, sign: int) -> None:
        """Add (sign 1) or subtract (sign -1) a request's remaining rows."""
        left, lane = request.rows - request.taken, request.lane
        self.rows += sign * left
        lane.left += sign * left
        lane.turn += sign * min(left, request.turn)
        if not lane.left:
            self._lanes[request.level].pop(request.kind, None)
