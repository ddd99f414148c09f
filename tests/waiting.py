"""How tests wait: until something is so, and never for a time that a busy machine could outlast."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT = 300.0  # seconds; only what hangs takes longer, and what takes longer fails


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"not so after {WAIT:g} s"
        time.sleep(0.05)
