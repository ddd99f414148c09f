"""`lectern triton`: start a real NVIDIA Triton over the model repository."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lectern.cli.app import SERVE, command
from lectern.cli.options import EXPORTED, Repository
from lectern.cli.output import fail, fail_for_missing, working


@command(SERVE)
def triton(
    repository: Repository = EXPORTED,
    port: Annotated[int, typer.Option(min=1, max=65535, help="gRPC.")] = 8011,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP.")] = 8010,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Prometheus.")] = 8012,
) -> None:
    """Start NVIDIA Triton on this machine's CPU, from PyPI (55 MB on first use), over the same models.

    For machines without NVIDIA's container, which serves the same directory with its ONNX Runtime backend. A directory
    that holds only model.onnx, or whose config.pbtxt leaves something out, gets what its graph says.

    \b
    lectern triton
    lectern serve --engine triton --triton-url 127.0.0.1:8011
    """
    try:
        from services.triton_server.launcher import Ports, TritonError, command, completed_repository, install
    except ImportError as error:
        fail_for_missing("Triton", error, "cpu")
    try:
        with working("installing Triton, on first use only"):
            home = install()
    except TritonError as error:
        fail(str(error))
    line, environment = command(home, completed_repository(home, repository), Ports(port, http_port, metrics_port))
    os.execve(line[0], line, environment)  # noqa: S606 - this process becomes Triton, signals included
