"""The interface of engines and of the graphs that they load."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.errors import Internal, InvalidArgument, OutOfMemory, ServiceError
from services.runtime.config import GraphConfig

Array = NDArray[Any]
Tensor = Any  # an Array, or a DeviceArray of device_memory.py, which has the same syntax

OUT_OF_MEMORY_SECONDS = 1.0  # after which a retry makes sense: the runs that took the memory have ended
# The words of ONNX Runtime's arena (core/framework/bfc_arena.cc), of CUDA, cuBLAS and cuDNN (core/providers/cuda/
# cuda_call.cc), and of C++ on the CPU: there is no code that means only this.
_OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer|is smaller than requested bytes|Failed to find a free memory block"
    r"|failure \d+: out of memory|(CUBLAS|CUDNN)_STATUS_\w*ALLOC(ATION)?_FAILED|std::bad_alloc"
)

log = logging.getLogger(__name__)


class EngineError(RuntimeError):
    """The engine cannot load or run a graph."""


class EngineUnavailableError(EngineError):
    """The engine does not answer now; trying again later makes sense."""


class InputError(EngineError):
    """The graph cannot take these values."""


class MisfitError(InputError):
    """The graph cannot take inputs of these lengths together."""


class OutOfMemoryError(EngineError):
    """The device has too little memory for a run now; a smaller run, or the same one later, may succeed."""


class Memory(Protocol):
    """Where a decoder keeps what its graph reads again in each step."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any], axes: int) -> Tensor:
        """An array; only so many leading axes of it are indexed."""


class HostMemory:
    """The process's own memory, which ONNX Runtime reads in place on the CPU."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any], axes: int) -> Tensor:
        return np.zeros(shape, dtype)


HOST = HostMemory()


class Graph(Protocol):
    """One version of an ONNX graph, ready to answer.

    A graph frees its memory once nothing refers to it and its queue is empty. So a version is replaced by dropping the
    reference to it: calls that hold the old graph still get their answers.

    Attributes:
        provider: what computes, e.g. `CPUExecutionProvider`; empty while nothing is loaded.
        memory: which `run` reads without a copy.
    """

    config: GraphConfig
    version: int
    provider: str
    memory: Memory

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = ..., priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        """Outputs by name for inputs by name, each with the batch first; the caller checks names, types and shapes.

        Args:
            deadline: in `time.monotonic()` seconds; `inf` = none.
            priority: 1 = first; 0, or a level that the config lacks = the config's default.
            max_wait: longest wait in the queue, in seconds, if the config lets callers choose; 0 = the config's.

        Raises:
            InvalidArgument: the graph cannot take these values.
            ResourceExhausted: the queue is full. OutOfMemory: the device's memory is.
            DeadlineExceeded: the deadline passed, or cannot be met.
            Unavailable: the graph is gone. Internal: the run failed.
        """

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Infer at once and on the calling thread, without the queue: for a caller that already has a whole batch.

        If an input X lies in the graph's memory, its output `new_X` stays there.

        Raises:
            InvalidArgument, OutOfMemory, Unavailable, Internal: as `infer`.
        """

    async def healthy(self) -> bool:
        """Whether it would answer now."""

    def close(self, seconds: float) -> None:
        """Take no more requests, and wait at most so many seconds for the queued ones."""


class Engine(Protocol):
    """Loads graphs."""

    name: str

    def load(
        self, config: GraphConfig, version: int, content: bytes, read_again: Callable[[], bytes] | None = None
    ) -> Graph:
        """Load and warm up a graph from these bytes, whose checksum the caller has verified.

        Args:
            read_again: reads the same bytes, or raises EngineError; given for a graph that its first call may load.

        Raises:
            EngineError: the graph is invalid, or does not run on the device that was asked for.
        """


async def batches(
    graph: Graph, inputs: Mapping[str, Array], deadline: float, priority: int
) -> AsyncIterator[dict[str, Array]]:
    """Outputs for more rows than one batch holds, a batch at a time; raises as `Graph.infer`.

    The next batch is sent when the last has been answered, so that callers take turns and share partly filled batches.
    """
    size = graph.config.max_batch_size
    for start in range(0, len(next(iter(inputs.values()))), size):
        part = {name: array[start : start + size] for name, array in inputs.items()}
        yield await graph.infer(part, deadline, priority)


def input_refused(config: GraphConfig) -> ServiceError:
    """The error for values that have the right type and shape and that the graph still cannot take."""
    return InvalidArgument(f"model {config.name} cannot take these values, e.g. an index that is out of its range")


def misfit(config: GraphConfig, lengths: str) -> ServiceError:
    """The error for inputs whose lengths do not fit together."""
    return InvalidArgument.field("inputs", f"do not fit together for {config.name}: {lengths}")


def engine_error(error: Exception) -> EngineError:
    """The error of a run or an allocation that ONNX Runtime reports by this one."""
    words = first_line(error)
    return OutOfMemoryError(words) if is_out_of_memory(error) else EngineError(words)


def is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime says that memory is short."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def run_failure(config: GraphConfig, error: Exception) -> ServiceError:
    """The error that callers get if a graph's run failed so, or what belongs to it; the log gets the cause."""
    if isinstance(error, InputError):
        log.info("%s refuses an input: %s", config.name, error)
        if isinstance(error, MisfitError):
            return misfit(config, "the graph does not run with axes of these lengths")
        return input_refused(config)
    if isinstance(error, OutOfMemoryError):
        log.warning("%s is short of memory: %s", config.name, error)
        return OutOfMemory(
            f"model {config.name}: the memory of its device is full; try again later, or with fewer items",
            retry_after=OUT_OF_MEMORY_SECONDS,
        )
    log.error("a run of %s failed", config.name, exc_info=error)
    return Internal(f"model {config.name} failed on this input")


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
