"""`lectern serve`: start a server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lectern.cli.app import SERVE, command
from lectern.cli.completion import capability
from lectern.cli.output import WRONG_USAGE, fail, fail_for_missing

if TYPE_CHECKING:
    from pydantic import ValidationError

PREFIX = "LECTERN_"
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


@command(SERVE)
def serve(
    context: typer.Context,
    capabilities: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CAPABILITY",
            help="Capabilities to serve, e.g. classify predict; all if none is named.",
            show_default=False,
            autocompletion=capability,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="gRPC; 0 = a free one.", show_default="8001")
    ] = None,
    http_port: Annotated[
        str | None, typer.Option(metavar="PORT|off", help="HTTP and JSON; 0 = a free one.", show_default="8000")
    ] = None,
    ui: Annotated[
        bool | None, typer.Option("--ui/--no-ui", help="The page at /, for a browser.", show_default="on loopback")
    ] = None,
    ui_token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --tokens: the token that calls of the page get.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="HTTP: /metrics and probes.", show_default="8002")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Device that models run on.", show_default="auto")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that share the port.", show_default="1")] = None,
    repository: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Directory of models.", show_default="exported"),
    ] = None,
    transport: Annotated[
        str | None,
        typer.Option(metavar="auto|grpc|native", help="auto: native if `make native` built it.", show_default="auto"),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="onnxruntime|triton", help="Engine that runs models.", show_default="onnxruntime"),
    ] = None,
    triton_url: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For --engine triton.", show_default="127.0.0.1:8001")
    ] = None,
    triton_tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Reach Triton by TLS; these sign its certificate.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve over TLS with this certificate.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of --tls-certificate.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Require client certificates that these sign.")
    ] = None,
    tokens: Annotated[Path | None, typer.Option(metavar="FILE", help="Require a token; see `lectern token`.")] = None,
    allow_model_control: Annotated[
        bool | None,
        typer.Option("--allow-model-control", help="Let clients load and unload models.", show_default="no"),
    ] = None,
    allow_attacks: Annotated[
        bool | None,
        typer.Option("--allow-attacks", help="Let clients attack images, to test models.", show_default="no"),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(metavar="auto|console|json", help="auto: console on a terminal, else json.", show_default="auto"),
    ] = None,
) -> None:
    """Start a server, until Ctrl-C or SIGTERM: it finishes what it accepted, then exits.

    Each option can also be set in the environment, e.g. LECTERN_METRICS_PORT=9002.

    \b
    lectern serve                                   every capability, this machine only
    lectern serve classify --port 9001              one capability
    lectern serve --host 0.0.0.0 --device cuda      for other machines, on a GPU
    lectern serve --tls-certificate server.pem --tls-key server.key --tokens tokens.json
    """
    # Settings of options that were not given come from the environment.
    options = {name: value for name, value in context.params.items() if value not in (None, (), [])}
    if directory := os.environ.pop(METRICS_DIRECTORY, None):
        # prometheus_client would write there, or fail if it cannot.
        note = "is not used: the server collects its workers' metrics in a directory of its own"
        typer.echo(f"note: {METRICS_DIRECTORY} is {directory!r} and {note}", err=True)
    try:
        from pydantic import ValidationError
        from pydantic_settings import SettingsError

        from services.server.main import run
        from services.server.settings import Settings, StartError
    except ImportError as error:
        fail_for_missing("a server", error, "cpu")
    try:
        settings = Settings(**options)
    except ValidationError as error:
        fail("\n  ".join(_messages(error, options)), WRONG_USAGE)
    except SettingsError as error:
        name = re.search(r'field "(\w+)"', str(error))
        variable = f"{PREFIX}{name[1].upper()}" if name else f"a {PREFIX} variable"
        fail(f"{variable} is {os.environ.get(variable)!r}, which is not JSON", WRONG_USAGE)
    try:
        run(settings)
    except StartError as error:
        fail(str(error))


def _messages(error: ValidationError, options: Mapping[str, Any]) -> list[str]:
    """A message for each wrong setting: the option or variable that it came from, and its value."""
    lines = []
    for wrong in error.errors():
        path = [str(part) for part in wrong["loc"]]
        option = path and path[0] in options
        name = f"--{path[0].replace('_', '-')}" if option else PREFIX + "__".join(path).upper()
        lines.append(f"{name} is {wrong['input']!r}: {wrong['msg'].removeprefix('Value error, ')}")
    return lines
