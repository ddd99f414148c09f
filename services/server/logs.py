"""Logging: coloured lines for people on a terminal, one JSON object a line for machines."""

from __future__ import annotations

import atexit
import logging
import sys
from datetime import UTC, datetime

from pythonjsonlogger.json import JsonFormatter
from rich.console import Console
from rich.logging import RichHandler

from services.excerpt import excerpt
from services.server.settings import Settings

LINE_BYTES = 10_000  # limit for a line's message and for each of its fields
OURS = ("artifacts", "lectern", "services")
STAGES = ("codec", "queue", "inference")


def is_console(settings: Settings) -> bool:
    """Whether the output is for people."""
    return settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())


def configure(settings: Settings) -> None:
    """Send the process's log to standard error."""
    handler: logging.Handler
    if is_console(settings):
        handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False)
        handler.setFormatter(ConsoleFormatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(
            JsonLineFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s",
                rename_fields={"asctime": "time", "levelname": "level"},
            )
        )
    handler.addFilter(_shorten)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    # Debug messages of libraries would bury our own lines.
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    atexit.register(_ignore_a_failed_flush)


def _ignore_a_failed_flush() -> None:
    """Keep a full disk from failing a clean stop: Python exits with code 120 if it cannot write its last lines."""
    try:
        sys.stderr.flush()
    except OSError:
        sys.stderr = None


def _shorten(record: logging.LogRecord) -> bool:
    """Shorten text from callers, so that it does not fill the log; tracebacks stay complete."""
    record.msg, record.args = excerpt(record.getMessage(), LINE_BYTES), None
    for name, value in vars(record).items():
        if isinstance(value, str) and name not in ("msg", "exc_text"):
            setattr(record, name, excerpt(value, LINE_BYTES))
    return True


class JsonLineFormatter(JsonFormatter):
    """One JSON object a line, with the time as RFC 3339 in UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - the base class's name
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class ConsoleFormatter(logging.Formatter):
    """Adds to an RPC's line the most useful fields of the JSON form: model, milliseconds, a failure's request id."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        message = super().formatMessage(record)
        fields = vars(record)
        if "rpc" not in fields:
            return message
        stages = [f"{s} {1000 * fields[f'{s}_seconds']:.1f}" for s in STAGES if f"{s}_seconds" in fields]
        took = f"{1000 * fields['seconds']:.1f} ms" + (f" ({', '.join(stages)})" if stages else "")
        request = "" if fields["code"] == "OK" else f"request {fields['request_id']}"
        return "  ".join(filter(None, (message, fields["model"], took, request)))
