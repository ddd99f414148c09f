"""Every setting of a server: `LECTERN_` environment variables, overridden by command-line flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.limits import ClientLimits, Limits
from services.server.addresses import LOOPBACK, authority
from services.server.capabilities import CAPABILITIES

Port = Annotated[int, Field(ge=0, le=65535)]


def _split(names: object) -> object:
    return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names


class StartError(RuntimeError):
    """The server cannot start with these settings; the message says why and what to do."""


def cannot_listen(host: str, port: int, setting: str, error: OSError) -> StartError:
    """The error of a port that is taken; `setting` names it."""
    option = f"--{setting.replace('_', '-')}"
    off = f", or {option} off" if setting == "http_port" else ""
    return StartError(
        f"cannot listen on {authority(host, port)} ({error.strerror or error}): is another server running there? "
        f"Choose another with {option}{off}"
    )


class Settings(BaseSettings):
    """Settings of `lectern serve`."""

    model_config = SettingsConfigDict(
        env_prefix="LECTERN_", env_nested_delimiter="__", extra="ignore", frozen=True, cli_parse_args=False
    )

    capabilities: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        tuple(CAPABILITIES), description="Capabilities to serve, separated by commas."
    )
    repository: Path = Field(Path("exported"), description="Directory of models, in Triton's layout.")
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 = every interface.")
    port: Port = Field(8001, description="Port of gRPC; 0 = any free one.")
    metrics_port: Port = Field(8002, description="Port of HTTP /metrics, /healthz and /readyz; 0 = any free one.")
    http_port: Literal["off"] | Port = Field(
        8000, description="Port of HTTP and JSON (docs/http.md); 0 = any free one, off = none."
    )
    ui: bool | None = Field(
        None,
        description="Whether HTTP has the page for people at `/` (docs/page.md); unset: on loopback without tokens, "
        "or with a ui_token_file.",
    )
    ui_token_file: Path | None = Field(
        None,
        description="File with the token that calls of the page get, where `tokens` are on. Whoever can open the page "
        "can call what its scopes allow.",
    )
    http_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Names by which HTTP may call this server, beside those of loopback where it listens there, "
        "separated by commas; none: any, unless it listens on loopback.",
    )
    http_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Origins whose web pages may call this server beside its own, e.g. https://page.example.com."
    )
    http_connections: PositiveInt = Field(1024, description="HTTP connections of one process; a further one is closed.")
    http_address_connections: PositiveInt = Field(
        512,
        description="The same of one address, or of one network of 64 bits of IPv6, so that one caller leaves some to "
        "others; more where all callers come through one proxy.",
    )
    http_header_bytes: PositiveInt = Field(16 * 1024, description="Bytes of an HTTP request's line and headers.")
    http_header_seconds: PositiveFloat = Field(10.0, description="Time for an HTTP request's headers to arrive.")
    http_body_seconds: PositiveFloat = Field(
        60.0, description="Time for an HTTP request's body to arrive, or for the next part of a stream of requests."
    )
    http_idle_seconds: PositiveFloat = Field(
        75.0, description="Time after which an HTTP connection without a request is closed."
    )
    transport: Literal["auto", "grpc", "native"] = Field(
        "auto", description="Transport of calls; auto: native if `make native` has built it (docs/transport.md)."
    )
    engine: Literal["onnxruntime", "triton"] = Field("onnxruntime", description="What runs the graphs.")
    triton_url: str = Field(
        "127.0.0.1:8001",
        description="gRPC address of the Triton of engine=triton; of `dns:///name:port` all addresses take turns.",
    )
    triton_tls_ca: Path | None = Field(
        None, description="PEM file of the authority for Triton's certificate; if set, TLS to Triton."
    )
    steady_seconds: NonNegativeFloat = Field(
        5.0, description="A graph without a card is served once nobody has written to it for so long."
    )
    load_seconds: PositiveFloat = Field(
        60.0, description="Time limit of loading and warming up one model; after it the other models go on without it."
    )
    cache_dir: Literal["off"] | Path = Field(
        Path("~/.cache/lectern"),
        description="Folder for graphs that take long to prepare, so that the next start is faster; off = none. "
        "Nobody but the server's user and root may be able to write to it.",
    )
    preload: bool = Field(
        False,
        description="Whether the graphs of gradients, for explanations and attacks, are loaded at each start; else by "
        "their first call, where there is a cache_dir.",
    )
    cache_bytes: NonNegativeInt = Field(
        0,
        description="Bytes of answers that one process keeps for equal inputs, of graphs whose config.pbtxt says "
        "`response_cache { enable: true }`; 0 = none.",
    )
    model_file_bytes: PositiveInt = Field(2**31 - 1, description="Largest file of a model; ONNX has no larger ones.")
    watch_seconds: PositiveFloat = Field(
        1.0, description="How often versions, health, tokens and certificates are checked."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="cuda: refuse to start without a working GPU.")
    gpu_memory_bytes: NonNegativeInt = Field(
        0,
        description="Bytes of a GPU's memory that one graph of one process may allocate, weights and runs together; a "
        "run that needs more is RESOURCE_EXHAUSTED. 0 = as much as there is.",
    )
    workers: PositiveInt = Field(1, description="Processes that share the port (SO_REUSEPORT).")
    worker_timeout_seconds: float = Field(
        30.0, ge=3, description="With several workers: a worker whose event loop hangs for so long is replaced."
    )
    memory_bytes: NonNegativeInt = Field(
        0,
        description="Bytes that all requests of one process may hold, encoded and decoded; more has to wait. "
        "0 = half of what the cgroup's limit leaves once models are loaded, else a quarter of the free memory, divided "
        "by workers.",
    )
    codec_threads: NonNegativeInt = Field(
        0, description="Threads that decode, encode and parse large inputs and outputs; 0 = one per core."
    )
    codec_seconds: PositiveFloat = Field(30.0, description="Longest time that decoding one input may take.")
    intra_op_threads: PositiveInt | None = Field(
        None,
        description="Threads that one run of any graph uses on the CPU; unset: its config's `intra_op_thread_count`, "
        "1 in every exported model.",
    )
    run_seconds: PositiveFloat = Field(
        0.01,
        description="On the CPU a batch has at most as many rows as run in about this time, but at least 8: the next "
        "caller waits for it, and larger batches are no faster.",
    )
    tls_certificate: Path | None = Field(None, description="PEM file of the server's certificate; with it, TLS only.")
    tls_key: Path | None = Field(None, description="PEM file of its key, not encrypted.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authority for clients' certificates; if set, clients need one (mutual TLS)."
    )
    tokens: Path | None = Field(
        None, description="File of token hashes, as `lectern token` writes it; with it, each call needs a token."
    )
    allow_model_control: bool = Field(False, description="Whether clients may load and unload models.")
    allow_attacks: bool = Field(False, description="Whether clients may call DefendService.Attack.")
    reflection: bool = Field(True, description="Whether clients may list services and messages.")
    drain_pause_seconds: NonNegativeFloat = Field(1.0, description="From NOT_SERVING to refusing new work, on SIGTERM.")
    drain_seconds: PositiveFloat = Field(20.0, description="Time limit for accepted requests to finish on SIGTERM.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug also logs every RPC that succeeds."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else json."
    )
    triton_metrics: bool = Field(
        False,
        description="Whether /metrics also has those of graphs by NVIDIA Triton's names (`nv_inference_...`), for its "
        "dashboards and alerts.",
    )
    tracing: bool | None = Field(
        None, description="Export OpenTelemetry spans; unset: if OTEL_EXPORTER_OTLP_ENDPOINT is set."
    )
    max_concurrent_streams: PositiveInt = Field(
        256, description="Calls under way on one connection; its client holds further ones back."
    )
    max_connection_age_seconds: NonNegativeFloat = Field(
        300.0,
        description="Age at which a connection is closed, so that its client resolves addresses anew; 0 = never.",
    )
    max_connection_age_grace_seconds: PositiveFloat = Field(
        600.0, description="Time limit for the remaining calls of a connection of that age."
    )
    reader_timeout_seconds: PositiveFloat = Field(
        20.0, description="A stream whose caller has not read for so long ends."
    )
    limits: Limits = Field(Limits(), description="Bounds on requests, e.g. LECTERN_LIMITS__IMAGES.")
    client_limits: ClientLimits = Field(ClientLimits(), description="Bounds on each client.")

    @property
    def ports(self) -> dict[str, int]:
        """The ports that workers share, by the names of their settings."""
        return {"port": self.port} | ({} if self.http_port == "off" else {"http_port": self.http_port})

    @property
    def serves_page(self) -> bool:
        """Whether HTTP has the page: as `ui` says, else on loopback without tokens, or with a token of its own."""
        if self.ui is not None:
            return self.ui
        return self.ui_token_file is not None if self.tokens else self.host in LOOPBACK
