"""Runs a graph before it serves: the first caller does not pay for the first run, and what a row costs is known."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import numpy as np

from services.runtime.config import GraphConfig
from services.runtime.graph import EngineError
from services.runtime.instances import Runner

LEAST_ROWS = 8  # of a batch; fewer would save little time and split small requests
MOST_BYTES = 256 * 2**20  # limit for the inputs of the largest batch


def warm_up(
    config: GraphConfig,
    runner: Runner,
    longest_seconds: float,
    run_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, float]:
    """Run single rows, and batches up to the largest that this graph will get.

    Args:
        longest_seconds: time limit of each run.
        run_seconds: a batch has at most the rows that run in about this time, but at least 8.

    Returns:
        The rows of the largest batch, and the seconds that a further row takes; 0 if that depends on its length.

    Raises:
        EngineError: a run fails, or does not end in time.
    """
    item = sum(math.prod(1 if d < 0 else d for d in t.shape) * t.dtype.itemsize for t in config.inputs)
    if item > MOST_BYTES:
        raise EngineError(f"config.pbtxt of {config.name} says that one item has {item} bytes")
    first = _run(config, runner, 1, longest_seconds, clock)
    most = min(config.max_batch_size, MOST_BYTES // max(1, item))
    if most <= 1:
        return config.max_batch_size, 0.0
    if any(d < 0 for t in config.inputs for d in t.shape):
        _run(config, runner, most, longest_seconds, clock)
        return config.max_batch_size, 0.0
    rows, fitting, per_row = 1, LEAST_ROWS, 0.0
    while rows < min(most, fitting):
        rows = min(most, fitting)
        # The faster of two: a run that waited for a core would make all later batches small.
        seconds = min(_run(config, runner, rows, longest_seconds, clock) for _ in range(2))
        per_row = max(0.0, (seconds - first) / (rows - 1))
        fitting = max(LEAST_ROWS, _power_of_two(run_seconds / per_row if per_row else math.inf))
    return min(config.max_batch_size, fitting), per_row


def _run(config: GraphConfig, runner: Runner, rows: int, longest_seconds: float, clock: Callable[[], float]) -> float:
    """Seconds that a batch of zeros takes."""
    batch = (rows,) if config.max_batch_size else ()
    inputs = {t.name: np.zeros((*batch, *(1 if d < 0 else d for d in t.shape)), t.dtype) for t in config.inputs}
    options = runner.options()
    timer = threading.Timer(longest_seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    started = clock()
    try:
        runner.run([t.name for t in config.outputs], inputs, options)
    except EngineError as error:
        if options.terminate:
            raise EngineError(f"the warm-up of {config.name} does not end within {longest_seconds:g} s") from error
        raise
    finally:
        timer.cancel()
    return clock() - started


def _power_of_two(most: float) -> int:
    """The largest power of two up to `most`, at least 1, so that slightly different measurements agree."""
    return 1 << max(0, int(min(most, 2**30)).bit_length() - 1)
