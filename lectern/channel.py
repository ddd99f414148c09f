"""Settings of both clients' channels: message limits, retries, load balancing, keepalive, TLS, token."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

DEFAULT_TARGET = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 30.0  # seconds
MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # either way; the server's own limit is the same
# Of the files in one request; the rest of a message is for its other fields.
MAX_CONTENT_BYTES = MAX_MESSAGE_BYTES - 1024 * 1024
KEEPALIVE_TIME_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
MAX_RECONNECT_BACKOFF_MS = 5_000
# gRPC's own is 30 s, in which a rollout may replace every pod that the name gave the last time.
MIN_RESOLUTION_INTERVAL_MS = 1_000

_URL_SCHEMES = ("http", "https", "grpc", "grpcs", "tcp")

RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A draining server reports it by its health before it refuses calls. Only policies such as round_robin check that.
    "healthCheckConfig": {"serviceName": ""},
    # The empty name means every method. No method changes the server's state, so all can be retried.
    "methodConfig": [{"name": [{}], "retryPolicy": RETRY_POLICY}],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}


@dataclass(frozen=True)
class TLS:
    """How to reach a server over TLS; each file is a path or its PEM bytes.

    Args:
        ca: certificates that sign the server's certificate; None = the ones that gRPC ships with.
        certificate, key: the client's own, where the server requires one (mutual TLS).
        server_name: the name in the server's certificate, where it differs from the host of the target.

    Raises:
        ValueError: one of `certificate` and `key` without the other.
    """

    ca: str | os.PathLike[str] | bytes | None = None
    certificate: str | os.PathLike[str] | bytes | None = None
    key: str | os.PathLike[str] | bytes | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a TLS client certificate and its key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials of a channel.

        Raises:
            OSError: a file cannot be read.
        """
        import grpc  # here: the command line reads this module's defaults without loading gRPC

        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.certificate))


def check_target(target: str) -> None:
    """Check that a target is one of gRPC's names: a host and port, `dns:///...`, `unix:...` and others.

    Raises:
        ValueError: it is a URL, or empty.
    """
    scheme, separator, rest = target.partition("://")
    if separator and scheme.lower() in _URL_SCHEMES:
        address = rest.partition("/")[0]
        tls = ", and TLS has options of its own" if scheme.lower() in ("https", "grpcs") else ""
        raise ValueError(f"{target!r} is a URL: a target is HOST:PORT, here {address!r}{tls}")
    if not target.strip():
        raise ValueError("the target is empty: it is HOST:PORT, e.g. 127.0.0.1:8001")


def channel_options(tls: TLS | None) -> list[tuple[str, str | int]]:
    """The channel arguments of a client."""
    options: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A request larger than this buffer is never retried; gRPC's default of 256 KiB excludes most photos.
        ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        # Clients of one process would share connections, and gRPC (1.83) crashes where two begin to watch the health of
        # one at the same moment: HealthProducer is found by the second before the first has started it.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", 100),  # as the first retry: each attempt has a new connection
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_BACKOFF_MS),
        ("grpc.dns_min_time_between_resolutions_ms", MIN_RESOLUTION_INTERVAL_MS),
    ]
    if tls and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def call_metadata(token: str | None, priority: int) -> tuple[tuple[str, str], ...]:
    """The metadata of a call made now: token, priority, and the caller's OpenTelemetry context if there is one."""
    own: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {token}"),) if token else ()
    if priority:
        own += (("x-priority", str(priority)),)
    if "opentelemetry.trace" not in sys.modules:  # so no code of this process has started a span
        return own
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return (*own, *((name.lower(), value) for name, value in carrier.items()))


def _pem(source: str | os.PathLike[str] | bytes | None) -> bytes | None:
    return source if source is None or isinstance(source, bytes) else Path(source).read_bytes()
