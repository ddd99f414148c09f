"""The process's memory: few heaps while it works, and what is free goes back to the system while it rests."""

from __future__ import annotations

import ctypes
import gc

HEAPS = 2
M_ARENA_MAX = -8  # from malloc.h

_libc = ctypes.CDLL(None)


def settle() -> None:
    """Call once, before threads start and after everything is imported.

    glibc gives each thread a heap of its own, and what threads left in them piled up to three times the memory of a
    server at rest. Objects of the start are exempted from garbage collection, which spent 20 ms on them each time.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_ARENA_MAX, HEAPS)
    gc.freeze()


def give_back() -> None:
    """Collect what failed calls left behind in reference cycles, and return all that is free to the system."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
