"""The report of a serving process after its start."""

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
    """Sent once by a process that serves: its ports, transport and models.

    Args:
        http_port: None = HTTP is off.
    """

    port: int
    http_port: int | None
    transport: str
    models: tuple[ModelRow, ...]
