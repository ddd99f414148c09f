"""The waiting requests of one graph, and which of them run together next."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from services.errors import ServiceError
from services.runtime.graph import Array


@dataclass(slots=True, eq=False)
class Run:
    """When `rows` of so many requests ran together, in `time.monotonic()` seconds."""

    rows: int
    requests: int
    started: float = field(default_factory=time.monotonic)
    ended: float = float("inf")
    number: int = field(default_factory=partial(random.getrandbits, 64))


@dataclass(slots=True, eq=False)
class Request:
    """One caller's arrays, in the order of the config's inputs; answered through `future`, which belongs to `loop`.

    Args:
        rows: items in each array; 1 for a graph without a batch axis.
        deadline: when it must have been taken for a run, in `time.monotonic()` seconds; `inf` = whenever.
        level: its priority, 0 = first.
        enqueued: when it came.
        taken: rows that were given to runs.
        answered: rows whose outputs are there.
        runs: those that had rows of it.
    """

    arrays: tuple[Array, ...]
    rows: int
    deadline: float
    level: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Array]]
    enqueued: float
    taken: int = 0
    answered: int = 0
    answers: dict[int, list[Array]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)


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

    def batches_with(self, other: Part) -> bool:
        """Whether both have the same shape beside the batch axis."""
        pairs = zip(self.request.arrays, other.request.arrays, strict=True)
        return all(a.shape[1:] == b.shape[1:] for a, b in pairs)

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


class Queue:
    """Requests by priority, each level first in, first out. Not thread-safe: its scheduler holds a lock.

    A request larger than a batch is taken a batch at a time and goes to the back in between, so that one caller's
    thousand items do not hold up another's one.

    Args:
        levels: how many priorities there are.
        batch_rows: most rows of a batch, at least 1.
    """

    def __init__(self, levels: int, batch_rows: int) -> None:
        self._levels: tuple[deque[Request], ...] = tuple(deque() for _ in range(levels))
        self._batch_rows = batch_rows
        self.rows = 0  # not yet taken

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def length(self, level: int) -> int:
        """How many requests of this priority wait."""
        return len(self._levels[level])

    def oldest(self) -> float:
        """When the longest waiting request came; the queue must not be empty."""
        return min(level[0].enqueued for level in self._levels if level)

    def add(self, request: Request) -> None:
        self._levels[request.level].append(request)
        self.rows += request.rows

    def remove(self, request: Request) -> bool:
        """Take out a request that nobody waits for; whether it was there."""
        try:
            self._levels[request.level].remove(request)
        except ValueError:
            return False
        self.rows -= request.rows - request.taken
        return True

    def take(self, now: float) -> tuple[list[Part], list[Request]]:
        """Rows of the first request that is in time with all that fit beside them, and the requests that are late."""
        batch: list[Part] = []
        late: list[Request] = []
        for level in self._levels:
            self._take_from(level, now, batch, late)
        return batch, late

    def _take_from(self, level: deque[Request], now: float, batch: list[Part], late: list[Request]) -> None:
        room = self._batch_rows - sum(part.rows for part in batch)
        passed: list[Request] = []
        unfinished: list[Request] = []
        while level and room > 0:
            request = level.popleft()
            if request.deadline <= now and not request.taken:
                late.append(request)
                self.rows -= request.rows
                continue
            left = request.rows - request.taken
            part = Part(request, request.taken, request.taken + min(left, self._batch_rows))
            if part.rows > room or (batch and not part.batches_with(batch[0])):
                passed.append(request)
                continue
            batch.append(part)
            room -= part.rows
            self.rows -= part.rows
            request.taken = part.stop
            if request.taken < request.rows:
                unfinished.append(request)
        level.extendleft(reversed(passed))
        level.extend(unfinished)
