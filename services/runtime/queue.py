"""The waiting requests of one graph, and which of them run together next."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from services.errors import ServiceError
from services.runtime.graph import Array

Shapes = tuple[tuple[int, ...], ...]


@dataclass(slots=True, eq=False)
class Run:
    """When `rows` of so many requests ran together, in the clock's seconds."""

    rows: int
    requests: int
    started: float
    ended: float = float("inf")
    number: int = field(default_factory=partial(random.getrandbits, 64))


@dataclass(slots=True, eq=False)
class Lane:
    """Requests of one priority that run together: rows that no run took yet, and those of them that are of their
    request's present turn."""

    left: int = 0
    turn: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """One caller's arrays, in the order of the config's inputs; answered through `future`, on its event loop.

    Args:
        rows: items in each array; 1 for a graph without a batch axis.
        deadline: when a run must have taken it, in the clock's seconds; `inf` = whenever.
        level: its priority, 0 = first.
        enqueued: when it came.
        taken: rows that runs took.
        turn: rows that it may still take before the others have their turn.
        answered: rows whose outputs are there.
        runs: those that had rows of it.
        shapes: of its arrays, beside the batch axis: requests that agree in them run together.
        lane: those of its level that do, while it is queued.
    """

    arrays: tuple[Array, ...]
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
    shapes: Shapes = field(init=False)
    lane: Lane = field(init=False)

    def __post_init__(self) -> None:
        self.shapes = tuple([a.shape[1:] for a in self.arrays])

    @property
    def left(self) -> int:
        """Rows that no run took yet."""
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
        """Give the caller these rows' outputs, once all others are there too, in order. Runs on the caller's loop."""
        request = self.request
        if request.future.done():
            return
        if isinstance(answer, ServiceError):
            request.future.set_exception(answer)
            return
        request.answers[self.start] = answer
        request.answered += self.rows
        if request.answered == request.rows:
            parts = [request.answers[start] for start in sorted(request.answers)]
            whole = parts[0] if len(parts) == 1 else [np.concatenate(c) for c in zip(*parts, strict=True)]
            request.future.set_result(whole)


class Work(NamedTuple):
    """What runs before the last batch of a request, in batches and rows, and the rows of that batch."""

    batches: int
    rows: int
    last: int


class Queue:
    """Requests by priority, each level first in, first out. Not thread-safe: its scheduler holds a lock.

    A request takes as many rows as a batch has, its turn, and goes to the back of its level for the next, so that one
    caller's thousand items do not hold up another's one.

    Args:
        levels: how many priorities there are.
        batch_rows: most rows of a batch, at least 1.
    """

    def __init__(self, levels: int, batch_rows: int) -> None:
        self._levels: tuple[deque[Request], ...] = tuple(deque() for _ in range(levels))
        self._batch_rows = batch_rows
        self._lanes: tuple[dict[Shapes, Lane], ...] = tuple({} for _ in range(levels))
        self.rows = 0  # that no run took yet

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def length(self, level: int) -> int:
        """How many requests of this priority wait."""
        return len(self._levels[level])

    def oldest(self) -> float:
        """When the longest waiting request came; the queue must not be empty."""
        return min(level[0].enqueued for level in self._levels if level)

    def add(self, request: Request) -> None:
        request.turn = self._batch_rows
        request.lane = self._lanes[request.level].setdefault(request.shapes, Lane())
        self._levels[request.level].append(request)
        self._count(request, 1)

    def remove(self, request: Request) -> bool:
        """Take out a request that nobody waits for; whether it was there."""
        try:
            self._levels[request.level].remove(request)
        except ValueError:
            return False
        self._count(request, -1)
        return True

    def work(self, request: Request) -> Work:
        """What would run up to the last batch of a request that came now."""
        size = self._batch_rows
        ahead = [(shapes, lane.left) for lanes in self._lanes[: request.level] for shapes, lane in lanes.items()]
        turns = -(-request.rows // size)
        if turns == 1:
            ahead += [(shapes, lane.turn) for shapes, lane in self._lanes[request.level].items()]
        else:
            rows: Counter[Shapes] = Counter()
            for other in self._levels[request.level]:
                rows[other.shapes] += min(other.left, other.turn + (turns - 1) * size)
            ahead += rows.items()
        own, rows_before, batches = request.rows, 0, 0
        for shapes, count in ahead:
            if shapes == request.shapes:
                own += count
            else:
                rows_before += count
                batches += -(-count // size)
        full = (own - 1) // size
        return Work(batches + full, rows_before + full * size, own - full * size)

    def take(self, now: float) -> tuple[list[Part], list[Request]]:
        """Rows of the first request that is in time with all that fit beside them, and the requests that are late."""
        batch: list[Part] = []
        late: list[Request] = []
        room = self._batch_rows
        for level in self._levels:
            passed: list[Request] = []
            while level and room:
                request = level.popleft()
                self._count(request, -1)
                if request.deadline <= now and not request.taken:
                    late.append(request)
                    continue
                if not batch or request.shapes == batch[0].request.shapes:
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
                    request.turn = self._batch_rows
                    level.append(request)
                request.lane = self._lanes[request.level].setdefault(request.shapes, request.lane)
                self._count(request, 1)
            level.extendleft(reversed(passed))
        return batch, late

    def _count(self, request: Request, sign: int) -> None:
        """Add (1) or take away (-1) what is left of a request."""
        left, lane = request.rows - request.taken, request.lane
        self.rows += sign * left
        lane.left += sign * left
        lane.turn += sign * min(left, request.turn)
        if not lane.left:
            self._lanes[request.level].pop(request.shapes, None)
