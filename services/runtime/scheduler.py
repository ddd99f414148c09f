"""Dynamic batching for one graph: a bounded queue, and a thread per instance that runs whatever is queued.

Handlers on the event loop only enqueue. An idle instance takes what is there at once, so batching adds no latency;
while it runs, requests gather and become its next batch. `session.run` releases the GIL, and results go back to the
loop in one call per batch. Graphs share the cores by the kernel's fair scheduling of their threads, so a graph's
instance count is its weight.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
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
from services.runtime.graph import Array, InputError, input_refused
from services.runtime.queue import Part, Queue, Request, Run

RETRY_AFTER_SECONDS = 0.1
AVERAGE_WEIGHT = 0.1
CAUTION = 1.5  # by which a wait is overestimated: at three times the capacity, 1.0 made one answer in two late
WORTH_WAKING_SECONDS = 0.001

log = logging.getLogger(__name__)


class Options(Protocol):
    """Of one run; setting `terminate`, from any thread, ends it within milliseconds."""

    terminate: bool


class Runner(Protocol):
    """One instance of a graph."""

    provider: str

    def options(self) -> Options:
        """Fresh options for one run."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Options) -> list[Array]:
        """Outputs by position for the named inputs."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(slots=True, eq=False)
class _Batch:
    """What runs together."""

    parts: list[Part]
    options: Options

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for any of it."""
        return all(part.request.future.done() for part in self.parts)


class Scheduler:
    """Queue and instance threads of one graph.

    Args:
        runners: one per instance.
    """

    def __init__(self, config: GraphConfig, version: int, runners: Sequence[Runner]) -> None:
        self._config = config
        self._names = tuple(t.name for t in config.inputs)
        self._outputs = tuple(t.name for t in config.outputs)
        self._queue = Queue(len(config.queues), max(1, config.max_batch_size))
        self._changed = threading.Condition()
        self._closed = self._waking = False
        self._seconds_per_row = 0.0  # moving average
        self._instances = len(runners)
        self._running: set[_Batch] = set()
        self._provider, self._version = runners[0].provider, version
        self._runner = runners[0]  # that `run_now` uses too
        self._ending = threading.Lock()  # held while it does, and when it closes
        labels = (config.name, str(version))
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(*labels)
        self._inference_seconds = metrics.INFERENCE_SECONDS.labels(*labels)
        self._batch_size = metrics.BATCH_SIZE.labels(*labels)
        self._depth = metrics.QUEUE_DEPTH.labels(*labels)
        self._depth.set(0)
        self._threads = [
            threading.Thread(target=self._work, args=(runner,), name=f"{config.name}-{i}", daemon=True)
            for i, runner in enumerate(runners)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, arrays: tuple[Array, ...], deadline: float, priority: int, max_wait: float) -> list[Array]:
        """Outputs for arrays of one item count, which may be larger than `max_batch_size`.

        Args:
            deadline: in `time.monotonic()` seconds; `inf` = none.
            priority, max_wait: as of `Graph.infer`.

        Raises:
            InvalidArgument: the graph cannot take these values.
            ResourceExhausted: the queue is full. DeadlineExceeded: the deadline passed before the run.
            Unavailable: the graph was unloaded. Internal: the run failed.
        """
        known = 1 <= priority <= len(self._config.queues)
        level = (priority if known else self._config.default_priority) - 1
        policy = self._config.queues[level]
        wait = min(max_wait, policy.timeout) if max_wait and policy.may_override else policy.timeout
        rows = len(arrays[0]) if self._config.max_batch_size else 1
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        request = Request(arrays, rows, min(deadline, now + wait), level, loop, loop.create_future(), now)
        self._enqueue(request)
        request.future.add_done_callback(partial(self._forget, request))
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
            started = time.monotonic()
            try:
                inputs = dict(zip(self._names, arrays, strict=True))
                return self._runner.run(self._outputs, inputs, self._runner.options())
            except Exception as error:
                raise self._failure(error) from error
            finally:
                self._inference_seconds.observe(time.monotonic() - started)

    def close(self) -> None:
        """Stop taking requests; the threads finish what is queued, close their runners and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait until the threads of a closed scheduler have ended."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _trace(self, request: Request) -> None:
        """Record how long it waited for its first run, and each run. Those that shared one have its id in common."""
        trace, now = tracing.current(), time.monotonic()
        trace.record("queue", request.enqueued, request.runs[0].started if request.runs else now)
        for run in request.runs:
            trace.batch_size = run.rows
            attributes = self._attributes(run) if trace.exports else None
            trace.record("inference", run.started, min(run.ended, now), attributes)

    def _attributes(self, run: Run) -> tracing.Attributes:
        return {
            "lectern.graph": self._config.name,
            "lectern.version": self._version,
            "lectern.provider": self._provider,
            "lectern.batch.id": f"{run.number:016x}",
            "lectern.batch.size": run.rows,
            "lectern.batch.requests": run.requests,
        }

    def _enqueue(self, request: Request) -> None:
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
            ahead = self._queue.rows + sum(batch.rows for batch in self._running)
            wait = (ahead + request.rows) * self._seconds_per_row / self._instances
            # Refused at the door, rather than after its caller has given up.
            if ahead and request.enqueued + CAUTION * wait > request.deadline:
                self._reject("backlog")
                raise ResourceExhausted(
                    f"model {self._config.name}: {ahead} items are ahead, which takes longer than the deadline allows",
                    retry_after=wait,
                )
            self._queue.add(request)
            self._depth.set(len(self._queue))
        if not self._waking:
            # Once for all requests of this turn of the event loop: they make one batch, and one hand-over of the GIL.
            self._waking = True
            request.loop.call_soon(self._wake_after_turn)

    def _wake_after_turn(self) -> None:
        self._waking = False
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        """Start an idle instance, unless those that run will be done sooner than it would help."""
        ahead = self._queue.rows + sum(batch.rows for batch in self._running)
        if not self._running or ahead * self._seconds_per_row > WORTH_WAKING_SECONDS:
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

    def _work(self, runner: Runner) -> None:
        while batch := self._take(runner):
            rows = batch.rows
            started = time.monotonic()
            for part in batch.parts:
                self._queue_seconds.observe(started - part.request.enqueued)
            self._batch_size.observe(rows)
            answer = self._run(runner, batch)
            seconds = time.monotonic() - started
            self._inference_seconds.observe(seconds)
            with self._changed:
                self._running.remove(batch)
                weight = AVERAGE_WEIGHT if self._seconds_per_row else 1.0
                self._seconds_per_row += weight * (seconds / rows - self._seconds_per_row)
            if isinstance(answer, ServiceError) and len(batch.parts) > 1:
                # One caller's input must not fail its neighbours.
                for part in batch.parts:
                    alone = _Batch([part], runner.options())
                    _deliver([part], self._run(runner, alone))
            else:
                _deliver(batch.parts, answer)
        with self._ending:
            runner.close()

    def _take(self, runner: Runner) -> _Batch | None:
        """Wait for the next batch; None once closed and drained."""
        with self._changed:
            while True:
                while not self._queue.rows:
                    if self._closed:
                        return None
                    self._changed.wait()
                if self._config.max_queue_delay:
                    self._gather()
                parts, late = self._queue.take(time.monotonic())
                self._depth.set(len(self._queue))
                if late:
                    self._reject("deadline", len(late))
                    error = DeadlineExceeded("the request waited in the queue until its time was over")
                    _deliver([Part(request, 0, request.rows) for request in late], error)
                if parts:
                    batch = _Batch(parts, runner.options())
                    self._running.add(batch)
                    if self._queue.rows:
                        self._wake()
                    return batch

    def _gather(self) -> None:
        """Wait until a full batch is queued or its oldest request has waited `max_queue_delay`."""
        while self._queue.rows and not self._closed:
            remaining = self._queue.oldest() + self._config.max_queue_delay - time.monotonic()
            if remaining <= 0 or self._queue.rows >= self._config.max_batch_size:
                return
            self._changed.wait(remaining)

    def _run(self, runner: Runner, batch: _Batch) -> list[Array] | ServiceError:
        if batch.abandoned:
            return Cancelled("the caller went away")
        run = Run(batch.rows, len(batch.parts))
        for part in batch.parts:
            part.request.runs.append(run)
        try:
            first = batch.parts[0].arrays
            columns = zip(*(part.arrays for part in batch.parts), strict=True)
            arrays = first if len(batch.parts) == 1 else [np.concatenate(column) for column in columns]
            return runner.run(self._outputs, dict(zip(self._names, arrays, strict=True)), batch.options)
        except Exception as error:  # whatever it is, this thread must go on to serve the next batch
            if batch.abandoned:
                self._reject("abandoned", len(batch.parts))
                return Cancelled("the caller went away")
            return self._failure(error)
        finally:
            run.ended = time.monotonic()

    def _failure(self, error: Exception) -> ServiceError:
        """What callers hear of a run that failed."""
        if isinstance(error, InputError):
            log.info("%s refuses an input: %s", self._config.name, error)
            return input_refused(self._config)
        log.error("a run of %s failed", self._config.name, exc_info=error)
        return Internal(f"model {self._config.name} failed on this input")

    def _unloading(self) -> ServiceError:
        return Unavailable(f"model {self._config.name} is being unloaded", retry_after=RETRY_AFTER_SECONDS)

    def _reject(self, reason: str, count: int = 1) -> None:
        metrics.REJECTED.labels(self._config.name, reason).inc(count)


def _deliver(parts: list[Part], answer: list[Array] | ServiceError) -> None:
    """Give each caller its own rows, in one hop to the event loop."""
    try:
        parts[0].request.loop.call_soon_threadsafe(_resolve, parts, answer)
    except RuntimeError:  # the loop is closed: nobody waits any more
        log.warning("the event loop ended before %d answers were delivered", len(parts))


def _resolve(parts: list[Part], answer: list[Array] | ServiceError) -> None:
    start = 0
    for part in parts:
        if isinstance(answer, ServiceError) or len(parts) == 1:
            part.resolve(answer)
        else:
            end = start + part.rows
            part.resolve([column[start:end] for column in answer])
            start = end
