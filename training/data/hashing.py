"""Fixed splits and choices by the hash of a text: the same on every machine, whatever else a data set holds."""

from __future__ import annotations

import hashlib


def bucket(text: str, count: int) -> int:
    """`sha1(text) % count`."""
    return int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16) % count
