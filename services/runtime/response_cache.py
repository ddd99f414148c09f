"""Answers of graphs by the content of their inputs, for those who ask the same again and again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count

from services import metrics
from services.runtime.graph import Array

LARGEST_INPUTS = 2**20  # hashing more would hold up the event loop for longer than a millisecond
ENTRY_BYTES = 1024  # what an entry takes beside its arrays
Key = tuple[int, bytes]
Outputs = dict[str, Array]


class ResponseCache:
    """Outputs of all graphs of a process, the least recently used of which give way to new ones; thread-safe.

    Args:
        total: bytes that it may hold.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._entries: OrderedDict[Key, Outputs] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Outputs | None:
        """A copy of the outputs, which the caller may alter; None if there are none."""
        with self._lock:
            outputs = self._entries.get(key)
            if outputs is None:
                return None
            self._entries.move_to_end(key)
        return _copy(outputs)

    def put(self, key: Key, outputs: Outputs) -> None:
        """Keep a copy of the outputs, unless they take more than the whole cache may."""
        size = _size(outputs)
        if size > self._total:
            return
        copy = _copy(outputs)
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = copy
            self._held += size
            while self._held > self._total:
                self._held -= _size(self._entries.popitem(last=False)[1])


class GraphResponses:
    """The answers of one loaded graph. Another version, or the same one loaded again, has none of them.

    Inputs of more than a MiB are neither looked up nor counted.
    """

    _numbers = count()

    def __init__(self, cache: ResponseCache, model: str, version: int) -> None:
        self._cache = cache
        self._number = next(self._numbers)
        self._hit_seconds = metrics.CACHE_HIT_SECONDS.labels(model, str(version))
        self._miss_seconds = metrics.CACHE_MISS_SECONDS.labels(model, str(version))

    def look_up(self, inputs: Mapping[str, Array]) -> tuple[Key | None, Outputs | None]:
        """The key for `keep`, None if the inputs are too large; and the outputs, None if they are not known."""
        if sum(array.nbytes for array in inputs.values()) > LARGEST_INPUTS:
            return None, None
        started = time.monotonic()
        key = self._number, _digest(inputs)
        outputs = self._cache.get(key)
        (self._miss_seconds if outputs is None else self._hit_seconds).observe(time.monotonic() - started)
        return key, outputs

    def keep(self, key: Key | None, outputs: Outputs) -> None:
        """Keep outputs for whoever asks the same."""
        if key is not None:
            self._cache.put(key, outputs)


def _digest(inputs: Mapping[str, Array]) -> bytes:
    """SHA-256 of names, types, shapes and bytes: a caller must not be able to make another's key."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _copy(outputs: Outputs) -> Outputs:
    return {name: array.copy() for name, array in outputs.items()}


def _size(outputs: Outputs) -> int:
    return ENTRY_BYTES + sum(array.nbytes for array in outputs.values())
