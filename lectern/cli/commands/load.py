"""`lectern load` and `lectern unload`: put a server's models into service and take them out, without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.app import SERVE, command
from lectern.cli.cards import state
from lectern.cli.completion import model as complete_model
from lectern.cli.connection import Connection
from lectern.cli.output import fail_for_missing

if TYPE_CHECKING:
    from lectern.client import Client

TIMEOUT = 120.0  # seconds; a server gives one model 60 to load unless told otherwise

Names = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Models.", show_default=False, autocompletion=complete_model),
]


@command(SERVE, timeout=TIMEOUT)
def load(connection: Connection, names: Names) -> None:
    """Load models that were unloaded, or their new versions at once; what serves goes on until the new ones answer.

    The server's operator has to allow it: lectern serve --allow-model-control. Where the server asks for a token, its
    scopes must include model_control.

    \b
    lectern load image_classifier
    lectern load resnet18 --target gpu-box:8001 --token "$TOKEN"
    """
    with connection.client() as client:
        pb = _protocol()
        for name in names:
            client._call(pb.RepositoryModelLoadRequest(model_name=name), pb.RepositoryModelLoadResponse, None)
            _say_state(client, name, "loaded")


@command(SERVE, timeout=TIMEOUT)
def unload(connection: Connection, names: Names) -> None:
    """Take models out of service until they are loaded again: accepted requests are finished, memory is freed.

    The same permission as for `lectern load`. Nothing on disk changes: a restarted server loads them again.

    \b
    lectern unload proxy_ensemble robust_classifier
    """
    with connection.client() as client:
        pb = _protocol()
        for name in names:
            client._call(pb.RepositoryModelUnloadRequest(model_name=name), pb.RepositoryModelUnloadResponse, None)
            _say_state(client, name, "unloaded")


def _say_state(client: Client, name: str, done: str) -> None:
    """Print what has become of a model's versions; or what was `done`, to whom a token does not let list models."""
    from lectern.errors import LecternError

    try:
        versions = client.get_model(name).model.versions
    except LecternError as error:
        if error.code().name != "PERMISSION_DENIED":
            raise
        typer.echo(f"{name} is {done}")
        return
    for version in versions:
        reason = f": {version.reason}" if version.reason else ""
        typer.echo(f"{name} {version.version} is {state(version)}{reason}")


def _protocol() -> Any:
    """The messages of the Open Inference Protocol, which a client's installation lacks.

    Raises:
        typer.Exit: they are not here.
    """
    try:
        from inference import grpc_service_pb2
    except ImportError as error:
        fail_for_missing("loading and unloading models", error)
    return grpc_service_pb2
