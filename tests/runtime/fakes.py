"""A clock that tests move, an event loop that runs on it, and graphs that cost what they say: no thread, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference import model_config_pb2
from services.runtime.config import GraphConfig, Padding, QueuePolicy, TensorSpec
from services.runtime.graph import Array, EngineError, InputError

FOREVER = float("inf")
TURNS = 10  # of the event loop, more than any chain of callbacks here is long


class Clock:
    """Seconds as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Loop(asyncio.SelectorEventLoop):
    """An event loop on that clock, which runs when it is told to; `errors` is what nobody caught."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._test_clock = clock
        self.errors: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self._test_clock.now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        running = asyncio._get_running_loop()
        assert running is None or running is self, "another event loop must call this one thread-safely"
        return super().call_soon(callback, *args, context=context)

    def settle(self) -> None:
        """Run everything that is due."""
        for _ in range(TURNS):
            self.call_soon(self.stop)
            self.run_forever()


def graph_config(
    max_batch_size: int,
    *,
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1,)),),
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "FP32", (-1,)),),
    priorities: int = 1,
    instances: int = 1,
    queue_size: int = 512,
    max_queue_delay: float = 0.0,
    padding: Padding | None = None,
) -> GraphConfig:
    return GraphConfig(
        name="fake",
        inputs=inputs,
        outputs=outputs,
        max_batch_size=max_batch_size,
        max_queue_delay=max_queue_delay,
        queues=(QueuePolicy(queue_size, FOREVER, False),) * priorities,
        default_priority=1,
        instances=instances,
        intra_op_threads=1,
        message=model_config_pb2.ModelConfig(),
        padding=padding,
    )


@dataclass
class Options:
    terminate: bool = False


@dataclass
class Runner:
    """Doubles its input, in `fixed + per_row * rows + per_place * rows * width` seconds; a negative value is refused.

    Args:
        during: called while a run is under way, for what a test wants to happen meanwhile.
    """

    clock: Clock
    fixed: float = 0.0
    per_row: float = 0.0
    during: Callable[[], object] = lambda: None
    per_place: float = 0.0
    runs: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    provider: str = "fake"

    def options(self) -> Options:
        return Options()

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Options) -> list[Array]:
        (x,) = inputs.values()
        self.runs.append(len(x))
        self.widths.append(x.shape[1])
        self.during()
        if options.terminate:
            raise EngineError("terminated")
        self.clock.now += self.fixed + self.per_row * len(x) + self.per_place * x.size
        if (x < 0).any():
            raise InputError("negative")
        return [2 * x]

    def close(self) -> None:
        """Nothing to free."""


def column(*values: float, width: int = 1) -> tuple[Array]:
    """One input: a row of `width` equal numbers for each value."""
    return (np.repeat(np.array(values, np.float32)[:, None], width, axis=1),)
