"""What a serving process reports once it serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelRow:
    """A version as the start-up table shows it."""

    name: str
    lecture: str
    capability: str
    version: int
    state: str
    reason: str


@dataclass(frozen=True)
class Ready:
    """What a process says once it serves."""

    port: int
    models: tuple[ModelRow, ...]
