"""What an engine offers: graphs that infer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from services.errors import InvalidArgument, ServiceError
from services.runtime.config import GraphConfig

Array = NDArray[Any]


class EngineError(RuntimeError):
    """The engine cannot load or run a graph."""


class EngineUnavailableError(EngineError):
    """The engine does not answer now; trying again later makes sense."""


class InputError(EngineError):
    """The graph cannot take these values."""


class MisfitError(InputError):
    """The graph cannot take inputs of these lengths."""


class Graph(Protocol):
    """One version of an ONNX graph, ready to answer.

    It frees what it holds once nobody refers to it any more and what was queued is finished, so a version is replaced
    by dropping it: calls that found it before still get their answers.

    Attributes:
        provider: what computes, e.g. `CPUExecutionProvider`.
    """

    config: GraphConfig
    version: int
    provider: str

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = ..., priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        """Outputs by name for inputs by name, each with the batch first; names, types and shapes were checked.

        Args:
            deadline: in `time.monotonic()` seconds; `inf` = none.
            priority: 1 = first; 0, or one that the config does not have = its default.
            max_wait: longest wait in the queue, in seconds, where the config lets callers choose; 0 = the config's.

        Raises:
            InvalidArgument: the graph cannot take these values.
            ResourceExhausted: the queue is full. DeadlineExceeded: the deadline passed, or cannot be met.
            Unavailable: the graph is gone. Internal: the run failed.
        """

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `infer`, at once and on the calling thread: for who has a whole batch, and nothing to do but wait for it.

        Raises:
            InvalidArgument, Unavailable, Internal: as `infer`.
        """

    async def healthy(self) -> bool:
        """Whether it would answer now."""

    def close(self, seconds: float) -> None:
        """Take no more requests, and wait so long at most for those that are queued."""


class Engine(Protocol):
    """Loads graphs."""

    name: str

    def load(self, config: GraphConfig, version: int, content: bytes) -> Graph:
        """A warm graph of these bytes, whose checksum is right.

        Raises:
            EngineError: the graph is invalid, or does not run as asked for.
        """


async def batches(
    graph: Graph, inputs: Mapping[str, Array], deadline: float, priority: int
) -> AsyncIterator[dict[str, Array]]:
    """Outputs for more inputs than one batch has, in parts; raises as `Graph.infer`.

    One part after the other: inputs of many callers take turns, and share what is left of a batch.
    """
    size = graph.config.max_batch_size
    for start in range(0, len(next(iter(inputs.values()))), size):
        part = {name: array[start : start + size] for name, array in inputs.items()}
        yield await graph.infer(part, deadline, priority)


def input_refused(config: GraphConfig) -> ServiceError:
    """What a caller is told whose values, though of the right type and shape, a graph cannot take."""
    return InvalidArgument(f"model {config.name} cannot take these values, e.g. an index that is out of its range")


def misfit(config: GraphConfig, lengths: str) -> ServiceError:
    """What a caller is told whose inputs are of lengths that do not belong together."""
    return InvalidArgument.field("inputs", f"do not fit together for {config.name}: {lengths}")
