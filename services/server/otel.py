"""Starts OpenTelemetry if LECTERN_TRACING or the standard OTEL_ variables ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable

from lectern.distribution import how_to_install
from services.server.settings import Settings, StartError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def start(settings: Settings) -> Callable[[], None]:
    """Export spans of RPCs if that is asked for; otherwise nothing of OpenTelemetry is imported.

    Returns:
        A function that sends the spans that are left when the server stops; it may take seconds.

    Raises:
        StartError: tracing is asked for and is impossible.
    """
    if not (_endpoint_is_set() if settings.tracing is None else settings.tracing):
        return lambda: None
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), "grpc")
    if protocol != "grpc":
        raise StartError(f"spans are exported by OTLP over grpc, not {protocol}: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
    try:
        from services.server import otel_spans
    except ImportError as error:
        raise StartError(
            f"tracing needs more packages ({error}): {how_to_install('tracing')}, or set LECTERN_TRACING=false"
        ) from error
    try:
        return otel_spans.start()
    except ValueError as error:
        raise StartError(f"an OTEL_ variable is malformed: {error}") from error


def _endpoint_is_set() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(os.environ.get(name) for name in ENDPOINTS)
