"""`lectern serve`: start a server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.output import WRONG_USAGE, fail, fail_for_missing

if TYPE_CHECKING:
    from pydantic import ValidationError

PREFIX = "LECTERN_"
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def serve(
    capabilities: Annotated[
        list[str] | None,
        typer.Argument(metavar="CAPABILITY", help="Such as classify predict; all if none.", show_default=False),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="gRPC; 0 takes a free one.", show_default="8001")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="HTTP: /metrics and probes.", show_default="8002")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where models run.", show_default="auto")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that share the port.", show_default="1")] = None,
    repository: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Directory of models.", show_default="exported"),
    ] = None,
    transport: Annotated[
        str | None, typer.Option(metavar="grpc|native", help="What carries calls.", show_default="grpc")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="onnxruntime|triton", help="What runs them.", show_default="onnxruntime")
    ] = None,
    triton_url: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For --engine triton.", show_default="127.0.0.1:8001")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve over TLS with it.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of --tls-certificate.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask clients for certificates that these sign.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask clients for a token; see `lectern token`.")
    ] = None,
    allow_model_control: Annotated[
        bool | None,
        typer.Option("--allow-model-control", help="Let clients load and unload models.", show_default="no"),
    ] = None,
    allow_attacks: Annotated[
        bool | None,
        typer.Option("--allow-attacks", help="Let clients have images attacked, to test models.", show_default="no"),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(metavar="auto|console|json", help="auto: console on a terminal, else json.", show_default="auto"),
    ] = None,
) -> None:
    """Start a server, until Ctrl-C or SIGTERM: it finishes what it accepted, then exits.

    Each option can be set as LECTERN_NAME in the environment instead, e.g. LECTERN_METRICS_PORT=9002.

    \b
    lectern serve                                   every capability, this machine only
    lectern serve classify --port 9001              one capability
    lectern serve --host 0.0.0.0 --device cuda      for others, on a GPU
    lectern serve --tls-certificate server.pem --tls-key server.key --tokens tokens.json
    """
    options: dict[str, Any] = {
        "capabilities": tuple(capabilities) if capabilities else None,
        "port": port,
        "metrics_port": metrics_port,
        "host": host,
        "device": device,
        "workers": workers,
        "repository": repository,
        "transport": transport,
        "engine": engine,
        "triton_url": triton_url,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "tokens": tokens,
        "allow_model_control": allow_model_control,
        "allow_attacks": allow_attacks,
        "log_format": log_format,
    }
    if directory := os.environ.pop(METRICS_DIRECTORY, None):
        # prometheus_client would write there, and fail where it cannot.
        note = "is not used: workers' metrics are gathered in a directory of their own"
        typer.echo(f"note: {METRICS_DIRECTORY} is {directory!r} and {note}", err=True)
    try:
        from pydantic import ValidationError
        from pydantic_settings import SettingsError

        from services.server.main import run
        from services.server.settings import Settings, StartError
    except ImportError as error:
        fail_for_missing("a server", error, "cpu")
    try:
        # Only what was given: what is left out comes from the environment.
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        fail("\n  ".join(_in_words(error, options)), WRONG_USAGE)
    except SettingsError as error:
        name = re.search(r'field "(\w+)"', str(error))
        variable = f"{PREFIX}{name[1].upper()}" if name else f"a {PREFIX} variable"
        fail(f"{variable} is {os.environ.get(variable)!r}, which is not JSON", WRONG_USAGE)
    try:
        run(settings)
    except StartError as error:
        fail(str(error))


def _in_words(error: ValidationError, options: Mapping[str, Any]) -> list[str]:
    """Each setting that is wrong, by the option or the variable that it came from, with its value."""
    lines = []
    for wrong in error.errors():
        path = [str(part) for part in wrong["loc"]]
        option = path and options.get(path[0]) is not None
        name = f"--{path[0].replace('_', '-')}" if option else PREFIX + "__".join(path).upper()
        lines.append(f"{name} is {wrong['input']!r}: {wrong['msg'].removeprefix('Value error, ')}")
    return lines
