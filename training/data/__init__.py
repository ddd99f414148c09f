"""Data of the course models: pinned sources (`fetch`), one module per data set with its fixed split, and `slivers` of
them; imports no other part of training."""

from __future__ import annotations

from pathlib import Path

SLIVERS = Path(__file__).parent / "slivers"
