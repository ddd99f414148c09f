"""What a shell offers when Tab is pressed: names of models, homeworks, recipes, capabilities and methods.

Each function takes what was typed so far and gives the names that begin with it; those of models come from the server,
or from `exported` where none answers.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path

import typer

from lectern.channel import DEFAULT_TARGET

SECONDS = 1.0  # that a server may take; nobody waits longer for Tab
EXPORTED = Path("exported")

Complete = Callable[[str], list[str]]


def model(context: typer.Context, incomplete: str) -> list[str]:
    """Names of models."""
    return _beginning((name for name, _ in _models(context)), incomplete)


def model_or_homework(context: typer.Context, incomplete: str) -> list[str]:
    """Names of models, and homeworks such as HW7."""
    models = _models(context)
    homeworks = {lecture for _, lecture in models if lecture and " " not in lecture}
    return _beginning([*(name for name, _ in models), *sorted(homeworks, key=lambda one: (len(one), one))], incomplete)


def recipe(incomplete: str) -> list[str]:
    """Names of models that can be trained here."""
    spec = importlib.util.find_spec("training.recipes") if importlib.util.find_spec("training") else None
    folders = spec.submodule_search_locations if spec else None
    own = (path.stem for folder in folders or () for path in Path(folder).glob("[a-z]*.py"))
    brought = (one.name for one in entry_points(group="lectern.recipes"))
    return _beginning(sorted({*own, *brought}), incomplete)


def capability(incomplete: str) -> list[str]:
    """Capabilities that a server may be started with."""
    try:
        from services.server.capabilities import CAPABILITIES
    except ImportError:
        return []
    return _beginning(CAPABILITIES, incomplete)


def one_of(names: Iterable[str]) -> Complete:
    """What completes one of these names."""
    return lambda incomplete: _beginning(names, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.lower().startswith(incomplete.lower())]


def _models(context: typer.Context) -> list[tuple[str, str]]:
    """Name and lecture of each model of the server that the command line names, else of `exported`."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from lectern.cli.listing import models_on_disk
    from lectern.client import Client
    from lectern.errors import LecternError

    target = context.params.get("target") or os.environ.get("LECTERN_TARGET", DEFAULT_TARGET)
    try:
        with Client(target, timeout=SECONDS, token=os.environ.get("LECTERN_TOKEN")) as client:
            return [(one.name, one.lecture) for one in client.list_models().models]
    except (LecternError, ValueError):
        documents = models_on_disk(EXPORTED) if EXPORTED.is_dir() else []
        return [(one["name"], one["lecture"]) for one in documents]
