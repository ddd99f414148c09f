"""Dynamic batching for one graph: a bounded queue, and a thread per instance that runs whatever is queued.

Handlers on the event loop only enqueue. An idle instance takes what is there at once, so batching adds no latency;
while it runs, requests gather and become its next batch. `session.run` releases the GIL, and results go back to the
loop in one call per batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from services import metrics
from services.errors import Cancelled, DeadlineExceeded, Internal, ResourceExhausted, ServiceError, Unavailable
from services.runtime.config import GraphConfig
from services.runtime.graph import Array

RETRY_AFTER_SECONDS = 0.1
AVERAGE_WEIGHT = 0.1

log = logging.getLogger(__name__)


class Options(Protocol):
    """Of one run; setting `terminate`, from any thread, ends it within milliseconds."""

    terminate: bool


class Runner(Protocol):
    """One instance of a graph."""

    def options(self) -> Options:
        """Fresh options for one run."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Options) -> list[Array]:
        """Outputs by position for the named inputs."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(slots=True, eq=False)
class _Request:
    """Arrays in the order of the config's inputs, all with `rows` items; answered through `future` on `loop`."""

    arrays: tuple[Array, ...]
    rows: int
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Array]]
    enqueued: float = field(default_factory=time.monotonic)
    batch: _Batch | None = None

    def batches_with(self, other: _Request) -> bool:
        """Whether both have the same shape beside the batch axis."""
        return all(a.shape[1:] == b.shape[1:] for a, b in zip(self.arrays, other.arrays, strict=True))


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that run together."""

    requests: list[_Request]
    options: Options

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for any of them."""
        return all(r.future.cancelled() for r in self.requests)


class Scheduler:
    """Queue and instance threads of one graph.

    Args:
        runners: one per instance.
    """

    def __init__(self, config: GraphConfig, version: int, runners: Sequence[Runner]) -> None:
        self._config = config
        self._names = tuple(t.name for t in config.inputs)
        self._outputs = tuple(t.name for t in config.outputs)
        self._queue: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_row = 0.0  # moving average
        self._instances = len(runners)
        self._running_rows = 0
        labels = (config.name, str(version))
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(*labels)
        self._inference_seconds = metrics.INFERENCE_SECONDS.labels(*labels)
        self._batch_size = metrics.BATCH_SIZE.labels(*labels)
        self._depth = metrics.QUEUE_DEPTH.labels(*labels)
        self._depth.set(0)
        for i, runner in enumerate(runners):
            threading.Thread(target=self._work, args=(runner,), name=f"{config.name}-{i}", daemon=True).start()

    async def run(self, arrays: tuple[Array, ...], deadline: float) -> list[Array]:
        """Outputs for arrays of one item count; larger counts than `max_batch_size` are split and joined again.

        Args:
            deadline: in `time.monotonic()` seconds; `inf` = none.

        Raises:
            ResourceExhausted: the queue is full. DeadlineExceeded: the deadline passed before the run.
            Unavailable: the graph was unloaded. Internal: the run failed.
        """
        rows, limit = len(arrays[0]), self._config.max_batch_size
        if limit == 0 or rows <= limit:
            return await self._submit([arrays], deadline)[0]
        parts = [tuple(a[start : start + limit] for a in arrays) for start in range(0, rows, limit)]
        futures = self._submit(parts, deadline)
        try:
            answers = [await future for future in futures]
        finally:
            for future in futures:
                future.cancel()
        return [np.concatenate(columns) for columns in zip(*answers, strict=True)]

    def close(self) -> None:
        """Stop taking requests; the threads finish what is queued, close their runners and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _submit(self, parts: Sequence[tuple[Array, ...]], deadline: float) -> list[asyncio.Future[list[Array]]]:
        """Queue all parts, or none if there is not room for all."""
        loop = asyncio.get_running_loop()
        requests = [_Request(part, len(part[0]), deadline, loop, loop.create_future()) for part in parts]
        with self._changed:
            if self._closed:
                raise Unavailable(f"model {self._config.name} is being unloaded", retry_after=RETRY_AFTER_SECONDS)
            # An empty queue takes any one request, or one larger than the queue could never be served.
            if self._queue and len(self._queue) + len(requests) > self._config.max_queue_size:
                self._reject("queue_full", len(requests))
                raise ResourceExhausted(
                    f"model {self._config.name}: {len(self._queue)} requests are waiting, the queue holds "
                    f"{self._config.max_queue_size}; try again later",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            self._refuse_if_late(deadline, sum(r.rows for r in requests))
            self._queue.extend(requests)
            self._depth.set(len(self._queue))
            self._changed.notify(len(requests))
        for request in requests:
            request.future.add_done_callback(partial(self._forget, request))
        return [request.future for request in requests]

    def _refuse_if_late(self, deadline: float, rows: int) -> None:
        """Refuse at the door what the backlog would make late, rather than after its caller has given up."""
        ahead = self._running_rows + sum(r.rows for r in self._queue)
        if not ahead:
            return
        wait = (ahead + rows) * self._seconds_per_row / self._instances
        if time.monotonic() + wait > deadline:
            self._reject("backlog")
            raise ResourceExhausted(
                f"model {self._config.name}: {ahead} items are ahead, which takes longer than the deadline allows",
                retry_after=wait,
            )

    def _forget(self, request: _Request, _: object) -> None:
        """A cancelled request leaves the queue at once; a run that nobody waits for any more is ended."""
        if not request.future.cancelled():
            return
        with self._changed:
            try:
                self._queue.remove(request)
            except ValueError:
                if request.batch and request.batch.abandoned:
                    request.batch.options.terminate = True
                return
            self._depth.set(len(self._queue))
            self._reject("cancelled")

    def _work(self, runner: Runner) -> None:
        while requests := self._take():
            rows = sum(r.rows for r in requests)
            started = time.monotonic()
            for request in requests:
                self._queue_seconds.observe(started - request.enqueued)
            self._batch_size.observe(rows)
            answer = self._run(runner, requests)
            seconds = time.monotonic() - started
            self._inference_seconds.observe(seconds)
            with self._changed:
                self._running_rows -= rows
                weight = AVERAGE_WEIGHT if self._seconds_per_row else 1.0
                self._seconds_per_row += weight * (seconds / rows - self._seconds_per_row)
            if isinstance(answer, ServiceError) and len(requests) > 1:
                # One caller's input must not fail its neighbours.
                for request in requests:
                    _deliver([request], self._run(runner, [request]))
            else:
                _deliver(requests, answer)
        runner.close()

    def _take(self) -> list[_Request]:
        """Wait for the next batch; empty once closed and drained."""
        with self._changed:
            while True:
                while not self._queue:
                    if self._closed:
                        return []
                    self._changed.wait()
                if self._config.max_queue_delay:
                    self._gather()
                batch, expired = self._pop_batch(time.monotonic())
                self._depth.set(len(self._queue))
                if expired:
                    self._reject("deadline", len(expired))
                    _deliver(expired, DeadlineExceeded("the deadline passed while the request waited in the queue"))
                if batch:
                    self._running_rows += sum(r.rows for r in batch)
                    return batch

    def _gather(self) -> None:
        """Wait until a full batch is queued or its oldest request has waited `max_queue_delay`."""
        while self._queue and not self._closed:
            remaining = self._queue[0].enqueued + self._config.max_queue_delay - time.monotonic()
            if remaining <= 0 or sum(r.rows for r in self._queue) >= self._config.max_batch_size:
                return
            self._changed.wait(remaining)

    def _pop_batch(self, now: float) -> tuple[list[_Request], list[_Request]]:
        """The oldest request that can still be answered with all that fit beside it, and those that are too late."""
        batch: list[_Request] = []
        expired: list[_Request] = []
        kept: list[_Request] = []
        rows, limit = 0, max(1, self._config.max_batch_size)
        while self._queue and rows < limit:
            request = self._queue.popleft()
            if request.deadline <= now:
                expired.append(request)
            elif not batch or (rows + request.rows <= limit and request.batches_with(batch[0])):
                batch.append(request)
                rows += request.rows
                if self._config.max_batch_size == 0:
                    break
            else:
                kept.append(request)
        self._queue.extendleft(reversed(kept))
        return batch, expired

    def _run(self, runner: Runner, requests: list[_Request]) -> list[Array] | ServiceError:
        batch = _Batch(requests, runner.options())
        for request in requests:
            request.batch = batch
        if batch.abandoned:
            return Cancelled("the caller went away")
        try:
            columns = zip(*(r.arrays for r in requests), strict=True)
            arrays = requests[0].arrays if len(requests) == 1 else tuple(np.concatenate(c) for c in columns)
            return runner.run(self._outputs, dict(zip(self._names, arrays, strict=True)), batch.options)
        except Exception:  # whatever it is, this thread must go on to serve the next batch
            if batch.abandoned:
                self._reject("abandoned", len(requests))
                return Cancelled("the caller went away")
            log.exception("a run of %s failed", self._config.name)
            return Internal(f"model {self._config.name} failed on this input")

    def _reject(self, reason: str, count: int = 1) -> None:
        metrics.REJECTED.labels(self._config.name, reason).inc(count)


def _deliver(batch: list[_Request], answer: list[Array] | ServiceError) -> None:
    """Give each caller its own rows, in one hop to the event loop."""
    try:
        batch[0].loop.call_soon_threadsafe(_resolve, batch, answer)
    except RuntimeError:  # the loop is closed: nobody waits any more
        log.warning("the event loop ended before %d answers were delivered", len(batch))


def _resolve(batch: list[_Request], answer: list[Array] | ServiceError) -> None:
    start = 0
    for request in batch:
        end = start + request.rows
        if not request.future.done():
            if isinstance(answer, ServiceError):
                request.future.set_exception(answer)
            else:
                request.future.set_result(answer if len(batch) == 1 else [column[start:end] for column in answer])
        start = end
