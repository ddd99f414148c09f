"""Whether spans are exported, decided by LECTERN_TRACING and the standard OTEL_ variables."""

from __future__ import annotations

import os
from collections.abc import Callable

from lectern.distribution import how_to_install
from services.server.settings import Settings, StartError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def start(settings: Settings) -> Callable[[], None]:
    """Trace RPCs if that is asked for; the function returned sends what was not sent yet, which may take seconds.

    Nothing of OpenTelemetry is imported if it is not.

    Raises:
        StartError: tracing is asked for and cannot be.
    """
    if not (_endpoint_is_set() if settings.tracing is None else settings.tracing):
        return lambda: None
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), "grpc")
    if protocol != "grpc":
        raise StartError(f"spans are exported by OTLP over grpc, not {protocol}: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
    try:
        from services.server import spans
    except ImportError as error:
        raise StartError(
            f"tracing needs more packages ({error}): {how_to_install('tracing')}, or set LECTERN_TRACING=false"
        ) from error
    try:
        return spans.start()
    except ValueError as error:
        raise StartError(f"an OTEL_ variable is malformed: {error}") from error


def _endpoint_is_set() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(os.environ.get(name) for name in ENDPOINTS)
