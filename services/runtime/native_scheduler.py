"""The scheduler whose queue is in C++ (native/queue.h): Python is asked once a batch, not once a request.

Requests of typed RPCs, from Python, and those that the native front takes share the queue and its batches. What C++ has
to tell Python waits until Python asks, so that no thread of the front ever waits for the GIL: an event loop is told by
a descriptor that requests have finished, and a thread of each process ends runs that nobody waits for, since only
Python can reach the options of a run.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from weakref import WeakKeyDictionary, WeakSet

from google.rpc import status_pb2

from services import _native, metrics
from services._native import Batch, Mailbox
from services.errors import Cancelled, ServiceError
from services.runtime.config import GraphConfig
from services.runtime.cost import RunCost
from services.runtime.graph import Array, run_failure
from services.runtime.instances import Instances, Options, Runner
from services.runtime.queue import Run
from services.runtime.statistics import RequestCounter, Total

NO_BATCH = 0  # a batch's number that none has
LONGEST_STOP_SECONDS = 1.0  # if a call that is cancelled meanwhile reads what was meant for the thread


class NativeScheduler(Instances[Batch]):
    """Queue and instances of one graph; the arguments are those of `Scheduler`."""

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
        self.queue = _native.Queue(
            config=config,
            version=version,
            rows=config.max_batch_size if rows is None else rows,
            seconds_per_place=cost.given if cost else 0.0,
            wait_bounds=metrics.SECONDS,
        )
        self._waking: set[asyncio.AbstractEventLoop] = set()  # loops that will wake an instance at the end of this turn
        self._counting = threading.Lock()  # else an older depth could be set after a newer one
        self._queue_seconds = metrics.QUEUE_SECONDS.labels(config.name, str(version))
        self._counter = RequestCounter(config.name, version)
        _schedulers.add(self)

    def start(self) -> None:
        _start_watching()
        super().start()

    async def run(self, arrays: tuple[Array, ...], deadline: float, priority: int, max_wait: float) -> list[Array]:
        loop, now = asyncio.get_running_loop(), self._clock()
        known = priority if priority <= len(self._config.queues) else 0  # C++ has no number for every one of Python
        future: asyncio.Future[list[Array]] = loop.create_future()
        ticket = self.queue.submit(arrays, deadline, known, max_wait, now, _mailbox(loop), future)
        if isinstance(ticket, tuple):
            raise _error(*ticket)
        if loop not in self._waking:
            # Once for all requests of this turn of the event loop: they form one batch and hand over the GIL once.
            self._waking.add(loop)
            loop.call_soon(self._wake_after_turn, loop)
        try:
            return await future
        except asyncio.CancelledError:
            self.queue.abandon(ticket)
            _end_runs(_native.terminated())
            raise
        finally:
            self._trace(now, [Run(*run) for run in ticket.runs])

    def take(self) -> Batch | None:
        return self.queue.take(self._clock())

    def execute(self, batch: Batch) -> None:
        batches = [batch]
        while batches:
            batches.extend(reversed(self._run(batches.pop())))

    def close(self) -> None:
        self._closed = True
        self.queue.close()

    def count(self) -> None:
        """Bring the metrics up to date with the queue's counters."""
        with self._counting:
            counters = self.queue.drain_counters()
            if counters is None:
                return
            metrics.add_to_histogram(self._queue_seconds, counters["waits"], counters["wait_seconds"])
            self._counter.add(Total(*counters["successes"]), Total(*counters["failures"]), counters["last_request"])
            for reason, count in counters["rejected"].items():
                self._reject(reason, count)
            self._depth.set(counters["depth"])

    def _next(self) -> Batch | None:
        return self.queue.next()

    def _run(self, batch: Batch) -> list[Batch]:
        """Run a batch; if it failed, the two halves to run again."""
        options, started = self._runner.options(), self._clock()
        _running[batch.number] = options  # before the batch begins, which looks whether anybody still waits for it
        try:
            arrays = batch.begin(started)
            if arrays is None:
                return []
            self._batch_size.observe(batch.rows)
            try:
                outputs = self._runner.run(self._outputs, dict(zip(self._names, arrays, strict=True)), options)
            finally:
                self._inference_seconds.observe(self._clock() - started)
            batch.answer(outputs, self._clock())
        except Exception as error:  # whatever it is, this thread must survive to serve the next batch
            failure = Cancelled("the caller went away") if batch.abandoned else run_failure(self._config, error)
            return batch.fail(failure.code, failure.message, -1.0, failure.status().SerializeToString(), self._clock())
        finally:
            del _running[batch.number]
        return []

    def _wake_after_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waking.discard(loop)
        self.queue.wake()


_running: dict[int, Options] = {}  # by the batch's number
_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()
_schedulers: WeakSet[NativeScheduler] = WeakSet()


def _count() -> None:
    for scheduler in _schedulers.copy():
        scheduler.count()


metrics.sources.append(_count)


@cache
def _start_watching() -> None:
    """Start this process's thread that ends runs which nobody waits for."""
    thread = threading.Thread(target=_watch, name="native-queues", daemon=True)
    thread.start()
    atexit.register(_stop_watching, thread)


def _watch() -> None:
    while NO_BATCH not in (numbers := _native.next_terminated()):
        _end_runs(numbers)


def _stop_watching(thread: threading.Thread) -> None:
    """A thread that came back from C++ while the interpreter ends would abort the process."""
    _native.interrupt(NO_BATCH)
    thread.join(LONGEST_STOP_SECONDS)


def _end_runs(numbers: Iterable[int]) -> None:
    for number in numbers:
        if options := _running.get(number):
            options.terminate = True


def _mailbox(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """Where requests of this event loop, which is the running one, go when they have finished."""
    if loop not in _mailboxes:
        _mailboxes[loop] = Mailbox()
        loop.add_reader(_mailboxes[loop].fileno(), _deliver, _mailboxes[loop])
    return _mailboxes[loop]


def _deliver(mailbox: Mailbox) -> None:
    for future, answer, failure in mailbox.completions():
        if future.done():
            continue
        if failure is None:
            future.set_result(answer)
        else:
            future.set_exception(_error(*failure))


def _error(code: int, message: str, retry_after: float, status: bytes) -> ServiceError:
    if status:
        return ServiceError.of(status_pb2.Status.FromString(status))
    return ServiceError.of_code(code, message, retry_after=None if retry_after < 0 else retry_after)
