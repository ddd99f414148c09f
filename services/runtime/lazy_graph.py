"""A graph whose session its first call creates: until then it takes no memory, and no time at the start."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress

from services import metrics, tracing
from services.errors import DeadlineExceeded, ServiceError, Unavailable
from services.runtime.config import GraphConfig
from services.runtime.graph import HOST, Array, EngineError, Graph, Memory, Tensor

RETRY_SECONDS = 5.0  # until a load that failed is tried again

log = logging.getLogger(__name__)


class LazyGraph:
    """A graph for few callers, and no decoder's. Calls that come while it is loaded wait for the same load, each until
    its deadline.

    Attributes:
        provider: empty before the graph is loaded.

    Args:
        load: loads and warms up the graph; runs on a thread of its own.
        longest_seconds: how long a call waits for a load at most.
    """

    memory: Memory = HOST

    def __init__(
        self, config: GraphConfig, version: int, load: Callable[[], Graph], longest_seconds: float = float("inf")
    ) -> None:
        self.config = config
        self.version = version
        self.provider = ""
        self._load = load
        self._longest_seconds = longest_seconds
        self._lock = threading.Lock()
        self._loading: Future[Graph] | None = None  # or loaded, or failed
        self._started, self._retry_at = 0.0, 0.0
        self._graph: Graph | None = None
        self._closed = False

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = float("inf"), priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        graph = self._graph or await self._loaded(deadline)
        return await graph.infer(inputs, deadline, priority, max_wait)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return (self._graph or self._begin().result()).run(inputs)

    async def healthy(self) -> bool:
        with self._lock:
            return not self._failed()

    def close(self, seconds: float) -> None:
        with self._lock:
            self._closed = True
        if self._loading:
            with suppress(ServiceError):  # the load failed, so there is nothing to close
                self._loading.result().close(seconds)

    async def _loaded(self, deadline: float) -> Graph:
        arrived, loading = time.monotonic(), self._begin()
        try:
            async with asyncio.timeout(min(deadline, self._started + self._longest_seconds) - arrived):
                return await asyncio.wrap_future(loading)  # which goes on when this call ends
        except TimeoutError:
            late = time.monotonic() >= deadline
            metrics.REJECTED.labels(self.config.name, "deadline" if late else "loading").inc()
            if late:
                raise DeadlineExceeded(f"the deadline passed while {self.config.name} was loaded") from None
            seconds = f"{self._longest_seconds:g} s (LECTERN_LOAD_SECONDS)"
            raise self._unavailable(f"loading takes more than {seconds}") from None
        finally:
            tracing.current().record("load", arrived, time.monotonic())

    def _begin(self) -> Future[Graph]:
        """The load, which begins if there is none, or if the last one failed a while ago."""
        with self._lock:
            if self._closed:
                raise self._unavailable("is being unloaded")
            if self._loading is None or (self._failed() and time.monotonic() >= self._retry_at):
                self._loading, self._started = Future(), time.monotonic()
                self._loading.set_running_or_notify_cancel()  # so that no caller who goes away cancels it
                threading.Thread(target=self._run, args=(self._loading,), name="lazy-loader", daemon=True).start()
            return self._loading

    def _run(self, loading: Future[Graph]) -> None:
        try:
            graph = self._load()
        except Exception as error:
            reason = str(error) if isinstance(error, EngineError) else type(error).__name__
            log.error("%s version %d cannot be loaded for its first call: %s", self.config.name, self.version, reason)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            loading.set_exception(self._unavailable(f"cannot be loaded: {reason}"))
        else:
            seconds = time.monotonic() - self._started
            log.info("loaded %s version %d for its first call in %.2f s", self.config.name, self.version, seconds)
            self._graph, self.provider = graph, graph.provider
            loading.set_result(graph)

    def _failed(self) -> bool:
        return self._loading is not None and self._loading.done() and self._loading.exception() is not None

    def _unavailable(self, problem: str) -> Unavailable:
        return Unavailable(f"model {self.config.name} {problem}", retry_after=RETRY_SECONDS)
