"""The message of `lectern serve` after its start: a table and example commands for people, a log line for machines."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.table import Table

from services.server.addresses import authority
from services.server.capabilities import CAPABILITIES
from services.server.logs import is_console
from services.server.report import Ready
from services.server.settings import Settings

log = logging.getLogger(__name__)

COLOURS = {"READY": "green", "UNAVAILABLE": "red"}


def announce(settings: Settings, ready: Ready, metrics_port: int) -> None:
    """Print or log where the server listens and what it serves."""
    target = authority(settings.host, ready.port)
    if not is_console(settings):
        ports = {"target": target, "http_port": ready.http_port, "metrics_port": metrics_port}
        ports["workers"] = settings.workers
        ports["transport"] = ready.transport
        log.info("serving", extra=ports | {"models": [f"{m.name}/{m.version} {m.state}" for m in ready.models]})
        return
    table = Table(
        "model", "lecture", "capability", "version", "state", title=_title(target, ready), title_justify="left"
    )
    for model in ready.models:
        colour = COLOURS[model.state]
        state = f"[{colour}]{model.state}[/{colour}]" + (f" {model.reason}" if model.reason else "")
        table.add_row(model.name, model.lecture, model.capability, str(model.version), state)
    console = Console(stderr=True)
    console.print(table)
    suffix = "" if target == "127.0.0.1:8001" else f" --target {target}"
    suffix += " --tls-ca CA.pem" if settings.tls_certificate else ""
    suffix += " --tls-cert CERT.pem --tls-key KEY.pem" if settings.tls_client_ca else ""
    suffix += " --token TOKEN" if settings.tokens else ""
    console.print("Try, in another terminal:")
    for command in ("lectern models", *_commands(settings, ready)):
        console.print(f"  {command}{suffix}", highlight=False)
    if ready.http_port is not None and settings.serves_page:
        scheme = "https" if settings.tls_certificate else "http"
        console.print(f"  open {scheme}://{authority(settings.host, ready.http_port)} in a browser", highlight=False)
    if ready.http_port is not None:
        console.print(f"  {_curl(settings, ready.http_port)}", highlight=False, soft_wrap=True)
    console.print(f"  curl http://{authority(settings.host, metrics_port)}/metrics", highlight=False)
    console.print("Stop with Ctrl-C: accepted requests are finished first.")


def _title(target: str, ready: Ready) -> str:
    faster = "" if ready.transport == "native" else "; `make native` builds a faster one"
    return f"Lectern serves at {target} (transport: {ready.transport}{faster})"


def _curl(settings: Settings, port: int) -> str:
    """The command that lists models over HTTP."""
    scheme, options = ("https", " --cacert CA.pem") if settings.tls_certificate else ("http", "")
    options += " --cert CERT.pem --key KEY.pem" if settings.tls_client_ca else ""
    options += " -H 'authorization: Bearer TOKEN'" if settings.tokens else ""
    url = f"{scheme}://{authority(settings.host, port)}/lectern.v1.ModelService/ListModels"
    return f"curl{options} --json '{{}}' {url}"


def _commands(settings: Settings, ready: Ready) -> list[str]:
    """A command for each capability that is served and has a model that answers."""
    answering = {model.capability for model in ready.models if model.state == "READY"}
    served = (CAPABILITIES[name] for name in settings.capabilities)
    return [capability.command for capability in served if answering & set(capability.models_of)]
