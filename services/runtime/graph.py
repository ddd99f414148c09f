"""What an engine offers: graphs that infer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from services.runtime.config import GraphConfig

Array = NDArray[Any]


class EngineError(RuntimeError):
    """The engine cannot load or run a graph."""


class EngineUnavailableError(EngineError):
    """The engine does not answer now; trying again later makes sense."""


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

    async def infer(self, inputs: Mapping[str, Array], deadline: float = ...) -> dict[str, Array]:
        """Outputs by name for inputs by name, each with the batch first; names, types and shapes were checked.

        Args:
            deadline: in `time.monotonic()` seconds; `inf` = none.

        Raises:
            ResourceExhausted: the queue is full. DeadlineExceeded: the deadline passed, or cannot be met.
            Unavailable: the graph is gone. Internal: the run failed.
        """

    async def healthy(self) -> bool:
        """Whether it would answer now."""


class Engine(Protocol):
    """Loads graphs."""

    name: str

    def load(self, config: GraphConfig, version: int, content: bytes) -> Graph:
        """A warm graph of these bytes, whose checksum is right.

        Raises:
            EngineError: the graph is invalid, or does not run as asked for.
        """
