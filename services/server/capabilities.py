"""Lists the capabilities: every package of `services` whose `__init__` has a `CAPABILITY`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

import services
from services.capability import Capability


def _discover() -> Mapping[str, Capability]:
    packages = [f"services.{module.name}" for module in pkgutil.iter_modules(services.__path__) if module.ispkg]
    descriptors = (getattr(importlib.import_module(package), "CAPABILITY", None) for package in packages)
    return {descriptor.name: descriptor for descriptor in descriptors if descriptor}


CAPABILITIES = _discover()
"""Descriptors by name, in the order of their names."""
