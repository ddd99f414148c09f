"""Dynamic batching for one graph: a bounded queue, and a thread per instance that runs whatever is queued.

Handlers on an event loop only enqueue. An idle instance takes the queued requests as soon as the event loop brings no
more, microseconds later, so batching adds no latency. While it runs, further requests gather and become its next batch.
`session.run` releases the GIL, and results go back in one call per batch to each event loop that waits. The kernel
schedules the threads of all graphs fairly, so a graph's instance count is its weight.

Nothing here needs the threads: tests take and execute batches themselves, on their own clock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services import metrics
from services.errors import (
    Cancelled,
    DeadlineExceeded,
    ResourceExhausted,
    ServiceError,
)
from services.runtime.batches import Batching
from services.runtime.config import GraphConfig
from services.runtime.cost import RunCost
from services.runtime.graph import Array, run_failure
from services.runtime.instances import RETRY_AFTER_SECONDS, Instances, Options, Runner
from services.runtime.queue import Part, Queue, Request, Run

CAUTION = 1.5  # estimates of waits are multiplied by this: at three times the capacity, 1.0 made half the answers late
WORTH_WAKING_SECONDS = 0.001
QUIET_TURNS = 3  # gRPC hands over one call in each turn or two of the event loop; a turn takes about 10 us

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Batch:
    """Parts of requests that run together.

    Args:
        places: the size that determines its cost: rows times the longest length.
    """

    parts: list[Part]
    options: Options
    started: float
    rows: int = field(init=False)
    places: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = sum([part.rows for part in self.parts])
        self.places = self.rows * max([part.request.length for part in self.parts])

    def drop_answered(self) -> None:
        """Leave out the parts that no caller waits for, unless that is all of them."""
        waiting = [part for part in self.parts if not part.request.future.done()]
        if 0 < len(waiting) < len(self.parts):
            self.parts = waiting
            self.__post_init__()

    @property
    def abandoned(self) -> bool:
        """Whether no caller waits for any part of it."""
        return all(part.request.future.done() for part in self.parts)


class Scheduler(Instances[Batch]):
    """Queue and instances of one graph; `start` starts the threads.

    Args:
        cost: what is known of the runs' cost by now.
        rows: most in one batch, where that is fewer than the config says.
        clock: `time.monotonic`, or one that tests set.

    Attributes:
        idle: instances that wait for requests.
    """

    def __init__(
        self,
        config: GraphConfig,
        version: int,
        runner: Runner,
        cost: RunCost | None = None,
        clock: Callable[[], float] = time.monotonic,
        rows: int | None = None,
    ) -> None:
        super().__init__(config, version, runner, clock)
        self._batching = Batching(config, config.max_batch_size if rows is None else rows)
        self._queue = Queue(len(config.queues))
        self._cost = cost or RunCost()
        self._changed = threading.Condition()
        self.idle = 0
        self._waking: set[asyncio.AbstractEventLoop] = set()  # loops that will wake an instance soon
        self._running: set[Batch] = set()
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(config.name, str(version))

    async def run(self, arrays: tuple[Array, ...], deadline: float, priority: int, max_wait: float) -> list[Array]:
        known = 1 <= priority <= len(self._config.queues)
        level = (priority if known else self._config.default_priority) - 1
        policy = self._config.queues[level]
        wait = min(max_wait, policy.timeout) if max_wait and policy.may_override else policy.timeout
        rows = len(arrays[0]) if self._config.max_batch_size else 1
        loop = asyncio.get_running_loop()
        now = self._clock()
        kind, length = self._batching.kind(arrays), self._batching.length(arrays)
        future: asyncio.Future[list[Array]] = loop.create_future()
        request = Request(arrays, kind, length, rows, min(deadline, now + wait), level, future, now)
        self._enqueue(request, deadline)
        if loop not in self._waking:
            self._waking.add(loop)
            loop.call_soon(self._wake_after_turn, loop)
        try:
            return await future
        except BaseException:
            self._forget(request)
            raise
        finally:
            self._trace(request.enqueued, request.runs)

    def take(self) -> Batch | None:
        with self._changed:
            now = self._clock()
            if not self._queue.rows or self._delay(now) > 0:
                return None
            parts, late = self._queue.take(now)
            self._depth.set(len(self._queue))
            if late:
                self._reject("deadline", len(late))
                error = DeadlineExceeded("the request timed out in the queue")
                _deliver([Part(request, 0, request.rows) for request in late], error)
            if not parts:
                return None
            self._queue_seconds.observe_all([now - part.request.enqueued for part in parts])
            batch = Batch(parts, self._runner.options(), now)
            self._running.add(batch)
            if self._queue.rows:
                self._wake()
            return batch

    def execute(self, batch: Batch) -> None:
        batches = [batch]
        while batches:
            batch = batches.pop()
            answer = self._run(batch)
            halves: list[Batch] = []
            if isinstance(answer, ServiceError) and len(batch.parts) > 1 and not batch.abandoned:
                middle = len(batch.parts) // 2
                for parts in (batch.parts[middle:], batch.parts[:middle]):
                    halves.append(Batch(parts, self._runner.options(), float("inf")))
            else:
                _deliver(batch.parts, answer)
            with self._changed:
                self._running.remove(batch)
                self._running.update(halves)
            batches += halves

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> Batch | None:
        with self._changed:
            while not (batch := self.take()):
                if self._closed and not self._queue.rows:
                    return None
                self.idle += 1
                self._changed.wait(max(0.0, self._delay(self._clock())) if self._queue.rows else None)
                self.idle -= 1
            return batch

    def _delay(self, now: float) -> float:
        """Seconds left to wait for a full batch; the oldest request waits at most `max_queue_delay`."""
        delay = self._config.max_queue_delay
        if not delay or self._closed or self._has_full_batch():
            return 0.0
        return self._queue.oldest() + delay - now

    def _has_full_batch(self) -> bool:
        return any(rows >= kind.rows for kind, rows in self._queue.waiting().items())

    def _enqueue(self, request: Request, deadline: float) -> None:
        with self._changed:
            if self._closed:
                raise self._unloading()
            waiting, most = self._queue.length(request.level), self._config.queues[request.level].max_size
            if waiting >= most:
                self._reject("queue_full")
                raise ResourceExhausted(
                    f"model {self._config.name}: {waiting} requests are waiting, the queue holds {most}; "
                    "try again later",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            if request.deadline < float("inf") and (self._running or self._queue.rows):
                self._check_backlog(request, deadline)
            self._queue.add(request)

    def _check_backlog(self, request: Request, deadline: float) -> None:
        """Refuse a request now if its answer would come after its deadline."""
        work, instances = self._queue.work(request), self._config.instances
        turn = (self._remaining(request.enqueued) + self._cost.seconds(work.batches, work.places)) / instances
        answer = turn + self._cost.seconds(1, work.last)
        if request.enqueued + CAUTION * turn > request.deadline or request.enqueued + CAUTION * answer > deadline:
            self._reject("backlog")
            raise ResourceExhausted(
                f"model {self._config.name}: {work.batches + len(self._running)} batches are ahead, which take longer "
                "than the deadline allows; try again later",
                retry_after=answer,
            )

    def _remaining(self, now: float) -> float:
        """Seconds of compute until the current runs are done."""
        ends = (self._cost.seconds(1, batch.places) - max(0.0, now - batch.started) for batch in self._running)
        return sum(max(0.0, end) for end in ends)

    def _wake_after_turn(self, loop: asyncio.AbstractEventLoop, rows: int = 0, quiet: int = 0) -> None:
        """Wake an idle instance, but while there is little work only after QUIET_TURNS turns without a new request.

        Otherwise it takes the first of many requests alone: batches of 3 in place of 6 with 8 callers, 6 in place of 20
        with 32. All of them hand over the GIL once.

        Args:
            rows: in the queue when this was called last, `quiet` turns after they had come.
        """
        with self._changed:
            self._depth.set(len(self._queue))
            quiet = quiet + 1 if self._queue.rows <= rows else 0
            if self.idle and quiet < QUIET_TURNS and not self._has_full_batch() and not self._is_worth_waking():
                loop.call_soon(self._wake_after_turn, loop, self._queue.rows, quiet)
                return
            self._waking.discard(loop)
            self._wake()

    def _wake(self) -> None:
        """Wake an idle instance, unless the running ones will be done before it could help."""
        if self.idle and (not self._running or self._is_worth_waking()):
            self._changed.notify()

    def _is_worth_waking(self) -> bool:
        """Whether the current runs and all waiting requests take some time."""
        waiting = self._queue.waiting().items()
        batches = sum(-(-rows // kind.rows) for kind, rows in waiting)
        places = sum(rows * kind.length for kind, rows in waiting)
        return self._remaining(self._clock()) + self._cost.seconds(batches, places) >= WORTH_WAKING_SECONDS

    def _forget(self, request: Request) -> None:
        """Remove a failed or cancelled request from the queue, and end a run that no caller waits for."""
        with self._changed:
            if self._queue.remove(request):
                self._depth.set(len(self._queue))
                if request.future.cancelled():
                    self._reject("cancelled")
            for batch in self._running:
                if batch.abandoned:
                    batch.options.terminate = True

    def _run(self, batch: Batch) -> list[list[Array]] | ServiceError:
        """The outputs of each part's rows."""
        batch.drop_answered()
        if batch.abandoned:
            return Cancelled("the caller went away")
        parts = batch.parts
        batch.started = self._clock()
        run = Run(batch.rows, len(parts), batch.started)
        for part in parts:
            part.request.runs.append(run)
        self._batch_size.observe(batch.rows)
        try:
            arrays = self._batching.joined([part.arrays for part in parts])
            inputs = dict(zip(self._names, arrays, strict=True))
            outputs = self._runner.run(self._outputs, inputs, batch.options)
            answers = self._batching.parted(outputs, [(part.rows, part.request.length) for part in parts])
        except Exception as error:  # whatever it is, this thread must survive to serve the next batch
            if batch.abandoned:
                self._reject("abandoned", len(batch.parts))
                return Cancelled("the caller went away")
            return run_failure(self._config, error)
        else:
            with self._changed:
                self._cost.observe(batch.places, self._clock() - batch.started)
            return answers
        finally:
            run.ended = self._clock()
            self._inference_seconds.observe(run.ended - run.started)


def _deliver(parts: list[Part], outputs: list[list[Array]] | ServiceError) -> None:
    """Give each caller its own rows, in one hop to each event loop that callers wait in."""
    answers: dict[asyncio.AbstractEventLoop, list[tuple[Part, list[Array] | ServiceError]]] = {}
    for i, part in enumerate(parts):
        own = outputs if isinstance(outputs, ServiceError) else outputs[i]
        answers.setdefault(part.request.future.get_loop(), []).append((part, own))
    for loop, resolved in answers.items():
        try:
            loop.call_soon_threadsafe(_resolve, resolved)
        except RuntimeError:  # the loop is closed, so no caller waits
            log.warning("the event loop ended before %d answers were delivered", len(resolved))


def _resolve(answers: list[tuple[Part, list[Array] | ServiceError]]) -> None:
    for part, answer in answers:
        part.resolve(answer)
