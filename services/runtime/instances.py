"""The threads that run a graph's batches, and what callers are told of the runs; a scheduler says what runs next."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from services import metrics, tracing
from services.errors import ServiceError, Unavailable
from services.runtime.config import GraphConfig
from services.runtime.graph import Array, Tensor, run_failure
from services.runtime.queue import Run

RETRY_AFTER_SECONDS = 0.1

Batch = TypeVar("Batch")


class Options(Protocol):
    """Options of one run. Setting `terminate`, from any thread, ends the run within milliseconds."""

    terminate: bool


class Runner(Protocol):
    """A graph that runs; its instances share it, so `run` is called from several threads at once."""

    provider: str

    def options(self) -> Options:
        """Fresh options for one run."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Tensor], options: Options) -> list[Tensor]:
        """Outputs by position for the named inputs."""

    def close(self) -> None:
        """Free its memory."""


class Instances(ABC, Generic[Batch]):
    """A thread for each instance of one graph; `start` starts them.

    Args:
        clock: `time.monotonic`, or one that tests set.
    """

    def __init__(self, config: GraphConfig, version: int, runner: Runner, clock: Callable[[], float]) -> None:
        self._config, self._version, self._runner, self._clock = config, version, runner, clock
        self._names = tuple(t.name for t in config.inputs)
        self._outputs = tuple(t.name for t in config.outputs)
        self._closed = False
        self._ending = threading.Lock()  # held while `run_now` uses the runner, and while the runner is closed
        labels = (config.name, str(version))
        self._inference_seconds = metrics.INFERENCE_SECONDS.labels(*labels)
        self._batch_size = metrics.BATCH_SIZE.labels(*labels)
        self._depth = metrics.QUEUE_DEPTH.labels(*labels)
        self._depth.set(0)
        self._threads: list[threading.Thread] = []
        self._working = 0

    @abstractmethod
    async def run(self, arrays: tuple[Array, ...], deadline: float, priority: int, max_wait: float) -> list[Array]:
        """Outputs for arrays with the same number of items, which may be more than a batch holds.

        Args:
            deadline: in the clock's seconds; `inf` = none.
            priority, max_wait: as for `Graph.infer`.

        Raises:
            InvalidArgument: the graph cannot take these values.
            ResourceExhausted: the queue is full, or so long that the answer would be late. OutOfMemory: the device's
                memory is full.
            DeadlineExceeded: the deadline passed before the run.
            Unavailable: the graph was unloaded. Internal: the run failed.
        """

    @abstractmethod
    def take(self) -> Batch | None:
        """Take the next batch from the queue, for `execute`; None if there is none yet."""

    @abstractmethod
    def execute(self, batch: Batch) -> None:
        """Run a batch and give each caller its rows.

        One caller's input must not fail its neighbours: if a batch fails, each half runs again, until only the request
        at fault fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop taking requests; the threads finish what is queued, close the runner and end."""

    @abstractmethod
    def _next(self) -> Batch | None:
        """Wait for a batch; None once the scheduler is closed and its queue empty."""

    def start(self) -> None:
        """Start a thread for each instance."""
        self._working = self._config.instances
        for i in range(self._config.instances):
            thread = threading.Thread(target=self._work, name=f"{self._config.name}-{i}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def run_now(self, arrays: tuple[Tensor, ...]) -> list[Tensor]:
        """Outputs for a complete batch, run on the calling thread without the queue.

        Raises:
            InvalidArgument, OutOfMemory, Unavailable, Internal: as `run`.
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
                raise run_failure(self._config, error) from error
            finally:
                self._inference_seconds.observe(self._clock() - started)

    def join(self, seconds: float) -> None:
        """Wait until the threads of a closed scheduler have ended."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        """Body of an instance's thread."""
        while batch := self._next():
            self.execute(batch)
        with self._ending:
            self._working -= 1
            if not self._working:
                self._runner.close()

    def _trace(self, enqueued: float, runs: Sequence[Run]) -> None:
        """Record the wait for the first run, and each run. Requests that shared a run have its id in common."""
        trace, now = tracing.current(), self._clock()
        trace.record("queue", enqueued, runs[0].started if runs else now)
        for run in runs:
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

    def _unloading(self) -> ServiceError:
        return Unavailable(f"model {self._config.name} is being unloaded", retry_after=RETRY_AFTER_SECONDS)

    def _reject(self, reason: str, count: int = 1) -> None:
        metrics.REJECTED.labels(self._config.name, reason).inc(count)
