"""Places that clients share fairly: a client that holds none gets one as long as any is free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Places:
    """A number of places. A client may take another one while more are free than it holds.

    So the first client holds at most half of them, the next half of the rest, and no client all of them. This is the
    dynamic threshold of shared packet buffers (Choudhury and Hahne, 1998).
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[str] = Counter()

    @contextmanager
    def take(self, client: str) -> Iterator[bool]:
        """Hold a place during the `with` block; yields False if there is none for this client now."""
        if self._free <= self._held[client]:
            yield False
            return
        self._free -= 1
        self._held[client] += 1
        try:
            yield True
        finally:
            self._free += 1
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]
