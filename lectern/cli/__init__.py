"""The command line `lectern`.

A command's file imports gRPC, numpy or IPython only when it runs, so that `lectern --help` answers at once.
Exit codes: 0 done, 1 the request failed, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import importlib
import pkgutil

from lectern.cli import commands
from lectern.cli.app import app
from lectern.cli.failures import run

__all__ = ["app", "main"]

for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
    importlib.import_module(module.name)


def main() -> None:
    """Run the command line and exit."""
    run(app)
