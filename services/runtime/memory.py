"""The process's memory: few heaps while it works, and free memory returned to the system while it is idle."""

from __future__ import annotations

import ctypes
import gc

HEAPS = 2
MAPPED_BYTES = 16 * 2**20  # more than the activations of a batch, less than the largest messages
TRIM_BYTES = 64 * 2**20
M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1  # from malloc.h

_libc = ctypes.CDLL(None)


def settle() -> None:
    """Call once, before threads start and after everything is imported.

    glibc gives each thread its own heap, and the memory left in these heaps grew to three times that of an idle server.
    Large messages are mapped one by one, so that each goes back when it is freed. Smaller blocks are not: mapping the
    activations of every run cost 13 % of the throughput. Objects created during the start are exempt from garbage
    collection, which spent 20 ms on them each time.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_ARENA_MAX, HEAPS)
        _libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        _libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
    gc.freeze()


def give_back() -> None:
    """Collect the reference cycles that failed calls left, and return all free memory to the system."""
    gc.collect()
    trim()


def trim() -> None:
    """Return the unused memory of the heaps to the system."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
