"""Dynamic batching for one graph: a bounded queue, and a thread per instance that runs whatever is queued.

Handlers on an event loop only enqueue. An idle instance takes what is there at once, so batching adds no latency; while
it runs, requests gather and become its next batch. `session.run` releases the GIL, and results go back in one call per
batch to each event loop that waits. Graphs share the cores by the kernel's fair scheduling of their threads, so a
graph's instance count is its weight.

Nothing here needs the threads: tests take and execute batches themselves, on a clock of their own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from services import metrics, tracing
from services.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from services.runtime.config import GraphConfig
from services.runtime.cost import RunCost
from services.runtime.graph import Array, InputError, MisfitError, input_refused, misfit
from services.runtime.queue import Part, Queue, Request, Run

RETRY_AFTER_SECONDS = 0.1
CAUTION = 1.5  # by which a wait is overestimated: at three times the capacity, 1.0 made one answer in two late
WORTH_WAKING_SECONDS = 0.001

log = logging.getLogger(__name__)


class Options(Protocol):
    """Of one run; setting `terminate`, from any thread, ends it within milliseconds."""

    terminate: bool


class Runner(Protocol):
    """A graph that runs; its instances share it, so `run` is called from several threads at once."""

    provider: str

    def options(self) -> Options:
        """Fresh options for one run."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Options) -> list[Array]:
        """Outputs by position for the named inputs."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(slots=True, eq=False)
class Batch:
    """What runs together."""

    parts: list[Part]
    options: Options
    started: float

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for any of it."""
        return all(part.request.future.done() for part in self.parts)


class Scheduler:
    """Queue and instances of one graph; `start` starts the threads.

    Args:
        cost: what is known of the runs' cost by now.
        clock: `time.monotonic`, or one that tests set.
    """

    def __init__(
        self,
        config: GraphConfig,
        version: int,
        runner: Runner,
        cost: RunCost | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._version, self._runner, self._clock = config, version, runner, clock
        self._names = tuple(t.name for t in config.inputs)
        self._outputs = tuple(t.name for t in config.outputs)
        self._batch_rows = max(1, config.max_batch_size)
        self._queue = Queue(len(config.queues), self._batch_rows)
        self._cost = cost or RunCost()
        self._changed = threading.Condition()
        self._closed = False
        self._waking: set[asyncio.AbstractEventLoop] = set()  # which will wake an instance in this turn
        self._running: set[Batch] = set()
        self._ending = threading.Lock()  # held while `run_now` uses the runner, and when it is closed
        labels = (config.name, str(version))
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(*labels)
        self._inference_seconds = metrics.INFERENCE_SECONDS.labels(*labels)
        self._batch_size = metrics.BATCH_SIZE.labels(*labels)
        self._depth = metrics.QUEUE_DEPTH.labels(*labels)
        self._depth.set(0)
        self._threads: list[threading.Thread] = []
        self._working = 0

    def start(self) -> None:
        """Start a thread for each instance."""
        self._working = self._config.instances
        for i in range(self._config.instances):
            thread = threading.Thread(target=self._work, name=f"{self._config.name}-{i}", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def run(self, arrays: tuple[Array, ...], deadline: float, priority: int, max_wait: float) -> list[Array]:
        """Outputs for arrays of one item count, which may be larger than `max_batch_size`.

        Args:
            deadline: in the clock's seconds; `inf` = none.
            priority, max_wait: as of `Graph.infer`.

        Raises:
            InvalidArgument: the graph cannot take these values.
            ResourceExhausted: the queue is full, or so long that the answer would be late.
            DeadlineExceeded: the deadline passed before the run.
            Unavailable: the graph was unloaded. Internal: the run failed.
        """
        known = 1 <= priority <= len(self._config.queues)
        level = (priority if known else self._config.default_priority) - 1
        policy = self._config.queues[level]
        wait = min(max_wait, policy.timeout) if max_wait and policy.may_override else policy.timeout
        rows = len(arrays[0]) if self._config.max_batch_size else 1
        loop = asyncio.get_running_loop()
        now = self._clock()
        request = Request(arrays, rows, min(deadline, now + wait), level, loop.create_future(), now)
        self._enqueue(request, deadline)
        request.future.add_done_callback(partial(self._forget, request))
        if loop not in self._waking:
            # Once for all requests of this turn of the event loop: they make one batch, and one hand-over of the GIL.
            self._waking.add(loop)
            loop.call_soon(self._wake_after_turn, loop)
        try:
            return await request.future
        finally:
            self._trace(request)

    def run_now(self, arrays: tuple[Array, ...]) -> list[Array]:
        """Outputs for a batch that is whole, on the calling thread: it waits for no other, and none for it.

        Raises:
            InvalidArgument, Unavailable, Internal: as `run`.
        """
        with self._ending:
            if self._closed:
                raise self._unloading()
            self._batch_size.observe(len(arrays[0]))
            started = self._clock()
            try:
                inputs = dict(zip(self._names, arrays, strict=True))
                return self._runner.run(self._outputs, inputs, self._runner.options())
            except Exception as error:
                raise self._failure(error) from error
            finally:
                self._inference_seconds.observe(self._clock() - started)

    def take(self) -> Batch | None:
        """The next batch, which is to be executed; None if there is none yet."""
        with self._changed:
            now = self._clock()
            if not self._queue.rows or self._delay(now) > 0:
                return None
            parts, late = self._queue.take(now)
            self._depth.set(len(self._queue))
            if late:
                self._reject("deadline", len(late))
                error = DeadlineExceeded("the request waited in the queue until its time was over")
                _deliver([Part(request, 0, request.rows) for request in late], error)
            if not parts:
                return None
            for part in parts:
                self._queue_seconds.observe(now - part.request.enqueued)
            batch = Batch(parts, self._runner.options(), now)
            self._running.add(batch)
            if self._queue.rows:
                self._wake()
            return batch

    def execute(self, batch: Batch) -> None:
        """Run a batch and give each caller its rows.

        One caller's input must not fail its neighbours: of a batch that fails, each half runs again, down to the
        request that is to blame.
        """
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
        """Stop taking requests; the threads finish what is queued, close the runner and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait until the threads of a closed scheduler have ended."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        """What the thread of an instance does."""
        while batch := self._next():
            self.execute(batch)
        with self._changed:
            self._working -= 1
            last = not self._working
        if last:
            with self._ending:
                self._runner.close()

    def _next(self) -> Batch | None:
        """Wait for a batch; None once closed and drained."""
        with self._changed:
            while not (batch := self.take()):
                if self._queue.rows:
                    self._changed.wait(max(0.0, self._delay(self._clock())))
                elif self._closed:
                    return None
                else:
                    self._changed.wait()
            return batch

    def _delay(self, now: float) -> float:
        """Seconds that the queue waits for a full batch, at most until its oldest request waited `max_queue_delay`."""
        delay = self._config.max_queue_delay
        if not delay or self._closed or self._queue.rows >= self._config.max_batch_size:
            return 0.0
        return self._queue.oldest() + delay - now

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
            self._depth.set(len(self._queue))

    def _check_backlog(self, request: Request, deadline: float) -> None:
        """Refuse at the door what would be answered after its caller has given up."""
        work, instances = self._queue.work(request), self._config.instances
        turn = (self._remaining(request.enqueued) + self._cost.seconds(work.batches, work.rows)) / instances
        answer = turn + self._cost.seconds(1, work.last)
        if request.enqueued + CAUTION * turn > request.deadline or request.enqueued + CAUTION * answer > deadline:
            self._reject("backlog")
            raise ResourceExhausted(
                f"model {self._config.name}: {work.batches + len(self._running)} batches are ahead, which take longer "
                "than the deadline allows; try again later",
                retry_after=answer,
            )

    def _remaining(self, now: float) -> float:
        """Seconds of compute until everything that runs now is done."""
        ends = (self._cost.seconds(1, batch.rows) - max(0.0, now - batch.started) for batch in self._running)
        return sum(max(0.0, end) for end in ends)

    def _wake_after_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waking.discard(loop)
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        """Start an idle instance, unless those that run will be done sooner than it would help."""
        if self._running:
            batches = -(-self._queue.rows // self._batch_rows)
            backlog = self._remaining(self._clock()) + self._cost.seconds(batches, self._queue.rows)
            if backlog < WORTH_WAKING_SECONDS:
                return
        self._changed.notify()

    def _forget(self, request: Request, _: object) -> None:
        """A request that failed or was cancelled leaves the queue; a run that nobody waits for any more is ended."""
        if not request.future.cancelled() and request.future.exception() is None:
            return
        with self._changed:
            if self._queue.remove(request):
                self._depth.set(len(self._queue))
                if request.future.cancelled():
                    self._reject("cancelled")
            for batch in self._running:
                if batch.abandoned:
                    batch.options.terminate = True

    def _run(self, batch: Batch) -> list[Array] | ServiceError:
        parts = [part for part in batch.parts if not part.request.future.done()]
        if not parts:
            return Cancelled("the caller went away")
        batch.parts, rows = parts, sum(part.rows for part in parts)
        batch.started = self._clock()
        run = Run(rows, len(parts), batch.started)
        for part in parts:
            part.request.runs.append(run)
        self._batch_size.observe(rows)
        try:
            columns = zip(*(part.arrays for part in parts), strict=True)
            arrays = parts[0].arrays if len(parts) == 1 else [np.concatenate(column) for column in columns]
            answer = self._runner.run(self._outputs, dict(zip(self._names, arrays, strict=True)), batch.options)
        except Exception as error:  # whatever it is, this thread must go on to serve the next batch
            if batch.abandoned:
                self._reject("abandoned", len(batch.parts))
                return Cancelled("the caller went away")
            return self._failure(error)
        else:
            with self._changed:
                self._cost.observe(rows, self._clock() - batch.started)
            return answer
        finally:
            run.ended = self._clock()
            self._inference_seconds.observe(run.ended - run.started)

    def _trace(self, request: Request) -> None:
        """Record how long it waited for its first run, and each run. Those that shared one have its id in common."""
        trace, now = tracing.current(), self._clock()
        trace.record("queue", request.enqueued, request.runs[0].started if request.runs else now)
        for run in request.runs:
            trace.batch_size = run.rows
            attributes = self._attributes(run) if trace.exports else None
            trace.record("inference", run.started, min(run.ended, now), attributes)

    def _attributes(self, run: Run) -> tracing.Attributes:
        return {
            "lectern.graph": self._config.name,
            "lectern.version": self._version,
            "lectern.provider": self._runner.provider,
            "lectern.batch.id": f"{run.number:016x}",
            "lectern.batch.size": run.rows,
            "lectern.batch.requests": run.requests,
        }

    def _failure(self, error: Exception) -> ServiceError:
        """What callers hear of a run that failed."""
        if isinstance(error, InputError):
            log.info("%s refuses an input: %s", self._config.name, error)
            if isinstance(error, MisfitError):
                return misfit(self._config, "the graph does not run with axes of these lengths")
            return input_refused(self._config)
        log.error("a run of %s failed", self._config.name, exc_info=error)
        return Internal(f"model {self._config.name} failed on this input")

    def _unloading(self) -> ServiceError:
        return Unavailable(f"model {self._config.name} is being unloaded", retry_after=RETRY_AFTER_SECONDS)

    def _reject(self, reason: str, count: int = 1) -> None:
        metrics.REJECTED.labels(self._config.name, reason).inc(count)


def _deliver(parts: list[Part], answer: list[Array] | ServiceError) -> None:
    """Give each caller its own rows, in one hop to each event loop that callers wait in."""
    answers: dict[asyncio.AbstractEventLoop, list[tuple[Part, list[Array] | ServiceError]]] = {}
    start = 0
    for part in parts:
        own = answer
        if not isinstance(answer, ServiceError) and len(parts) > 1:
            own = [column[start : start + part.rows] for column in answer]
            start += part.rows
        answers.setdefault(part.request.future.get_loop(), []).append((part, own))
    for loop, resolved in answers.items():
        try:
            loop.call_soon_threadsafe(_resolve, resolved)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.warning("the event loop ended before %d answers were delivered", len(resolved))


def _resolve(answers: list[tuple[Part, list[Array] | ServiceError]]) -> None:
    for part, answer in answers:
        part.resolve(answer)
