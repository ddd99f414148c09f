"""Lectern: every model of a deep-learning course, served over gRPC.

    import lectern

    with lectern.Client() as client:
        print(client.classify_image("cat.png", top_k=3).results[0].classes)

`lectern.aio.Client` has the same methods for asyncio. Names are imported on first use, so that
`import lectern` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lectern import aio
    from lectern.channel import TLS
    from lectern.client import Client
    from lectern.errors import LecternError

__all__ = ["TLS", "Client", "LecternError", "aio"]

_HOMES = {"TLS": "lectern.channel", "Client": "lectern.client", "LecternError": "lectern.errors"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name == "aio":
        return importlib.import_module("lectern.aio")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lectern' has no attribute {name!r}")
