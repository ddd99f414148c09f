"""What `lectern serve` shows once it serves: a table and example commands for people, one log line for machines."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.table import Table

from services.server.addresses import authority
from services.server.logs import is_console
from services.server.report import Ready
from services.server.settings import Settings

log = logging.getLogger(__name__)

EXAMPLES = {
    "act": "lectern episode --seed 7 --out landing.gif",
    "classify": "lectern classify photo.png",
    "generate": "lectern generate images --seed 7",
    "predict": "lectern predict rows.csv",
}
COLOURS = {"READY": "green", "LOADING": "yellow", "UNAVAILABLE": "red"}


def announce(settings: Settings, ready: Ready, metrics_port: int) -> None:
    """Say where the server listens and what it serves."""
    target = authority(settings.host, ready.port)
    if not is_console(settings):
        ports = {"target": target, "metrics_port": metrics_port, "workers": settings.workers}
        log.info("serving", extra=ports | {"models": [f"{m.name}/{m.version} {m.state}" for m in ready.models]})
        return
    table = Table(
        "model", "lecture", "capability", "version", "state", title=f"Lectern serves at {target}", title_justify="left"
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
    for command in ("lectern models", *(EXAMPLES[c] for c in _answering(ready))):
        console.print(f"  {command}{suffix}", highlight=False)
    console.print(f"  curl http://{authority(settings.host, metrics_port)}/metrics", highlight=False)
    console.print("Stop with Ctrl-C: accepted requests are finished first.")


def _answering(ready: Ready) -> list[str]:
    return sorted({m.capability for m in ready.models if m.state == "READY"} & EXAMPLES.keys())
