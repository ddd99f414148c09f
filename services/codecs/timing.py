"""Records how long decoding took, for metrics, the log and spans."""

from __future__ import annotations

import time

from services import metrics, tracing


def decoded(codec: str, started: float) -> None:
    """Record that one request's inputs have been decoded; `started` in `time.monotonic()` seconds."""
    ended = time.monotonic()
    metrics.CODEC_SECONDS.labels(codec).observe(ended - started)
    tracing.current().record(f"decode {codec}", started, ended, stage="codec")
