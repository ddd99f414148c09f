"""The REST form of the Open Inference Protocol v2, under `/v2`, with Triton's extensions as far as gRPC has them.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from inference import grpc_service_pb2 as pb
from services.errors import InvalidArgument, NotFound, ServiceError
from services.server.door.calls import unary
from services.server.door.exchange import Exchange, MethodNotAllowed
from services.server.door.json_wire import INLINE_BYTES, MOST_TO_ONE, dump, load
from services.server.door.tensors import InferWire, check_unicode
from services.server.pipeline import Endpoint, StatusError
from services.server.settings import Settings

SERVICE = "inference.GRPCInferenceService"
HEADER_LENGTH = "inference-header-content-length"
DIGITS = 12
BINARY = "application/octet-stream"
OK, NOT_SO = 200, 400  # of a question whose answer is no, such as whether a model is ready, as Triton says it
REPOSITORY = "/v2/repository/models/{model_name}"
FIELD = re.compile(r"\{(\w+)\}")


def of_model(suffix: str) -> tuple[str, ...]:
    """The paths of a model and of one of its versions."""
    return f"/v2/models/{{name}}{suffix}", f"/v2/models/{{name}}/versions/{{version}}{suffix}"


@dataclass(frozen=True)
class Route:
    """Paths and their RPC.

    Args:
        paths: what is in braces is a field of the request.
        holds: the field that must be true for a good answer.
        show: the response as JSON.
    """

    method: str
    paths: tuple[str, ...]
    rpc: str
    request: type[Message]
    holds: str = ""
    show: Callable[[Any], object] | None = None


def plain(message: Message) -> dict[str, Any]:
    """Every field under its own name, 64-bit integers as numbers: as Triton writes JSON."""
    shown: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            shown[field.name] = {str(key): _plain_value(inner, value[key]) for key in value}
        elif field.is_repeated:
            shown[field.name] = [_plain_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            shown[field.name] = _plain_value(field, value)
    return shown


def _plain_value(field: Any, value: Any) -> Any:
    if field.message_type:
        return plain(value)
    if field.enum_type:
        return field.enum_type.values_by_number[value].name
    return value


ROUTES = (
    Route("GET", ("/v2", "/v2/"), "ServerMetadata", pb.ServerMetadataRequest),
    Route("GET", ("/v2/health/live",), "ServerLive", pb.ServerLiveRequest, "live"),
    Route("GET", ("/v2/health/ready",), "ServerReady", pb.ServerReadyRequest, "ready"),
    Route("GET", ("/v2/models/stats",), "ModelStatistics", pb.ModelStatisticsRequest),
    Route("GET", of_model(""), "ModelMetadata", pb.ModelMetadataRequest),
    Route("GET", of_model("/ready"), "ModelReady", pb.ModelReadyRequest, "ready"),
    Route("GET", of_model("/config"), "ModelConfig", pb.ModelConfigRequest, show=lambda r: plain(r)["config"]),
    Route("GET", of_model("/stats"), "ModelStatistics", pb.ModelStatisticsRequest),
    Route("POST", of_model("/infer"), "ModelInfer", pb.ModelInferRequest),
    Route(
        "POST",
        ("/v2/repository/index",),
        "RepositoryIndex",
        pb.RepositoryIndexRequest,
        show=lambda r: plain(r)["models"],
    ),
    Route("POST", (f"{REPOSITORY}/load",), "RepositoryModelLoad", pb.RepositoryModelLoadRequest),
    Route("POST", (f"{REPOSITORY}/unload",), "RepositoryModelUnload", pb.RepositoryModelUnloadRequest),
)


class _RouteWire:
    """The wire of a route other than an inference."""

    inline_bytes = INLINE_BYTES

    def __init__(self, route: Route, fields: Mapping[str, str]) -> None:
        self._route, self._fields = route, fields
        self.holds = True

    def parse(self, request: bytes, message: type[Message], fields: int) -> Message:
        parsed = message(**self._fields)
        document = load(request, fields) if request.strip() else {}
        parameters = document.get("parameters", {}) if isinstance(document, dict) else None
        if not isinstance(parameters, dict):
            raise InvalidArgument("the body must be a JSON object, and so must its parameters")
        if isinstance(parsed, pb.RepositoryIndexRequest):
            parsed.ready = document.get("ready") is True
        elif isinstance(parsed, pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest):
            for name, value in parameters.items():
                check_unicode(str(value), f"parameters[{name}]")
                parsed.parameters[name].string_param = str(value)
        return parsed

    def serialize(self, response: Message) -> bytes:
        if self._route.holds:
            self.holds = bool(getattr(response, self._route.holds))
        return dump(self._route.show(response) if self._route.show else plain(response))


class Inference:
    """Answers requests under `/v2`.

    Args:
        endpoints: by path, `/package.Service/Method`.
    """

    def __init__(self, settings: Settings, endpoints: Mapping[str, Endpoint]) -> None:
        self._most = int(settings.limits.message_bytes * MOST_TO_ONE)
        self._routes = [
            (re.compile(FIELD.sub(r"(?P<\1>[^/]+)", path)), route, endpoints[f"/{SERVICE}/{route.rpc}"])
            for route in ROUTES
            for path in route.paths
        ]

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request, an error too."""
        try:
            route, endpoint, fields = self._find(exchange)
            if route.request is pb.ModelInferRequest:
                await self._infer(exchange, endpoint, fields)
            else:
                await self._other(exchange, route, endpoint, fields)
        except (StatusError, ServiceError) as error:
            await exchange.reply_error(error)

    def _find(self, exchange: Exchange) -> tuple[Route, Endpoint, dict[str, str]]:
        methods = set()
        for path, route, endpoint in self._routes:
            if found := path.fullmatch(exchange.path):
                if route.method == exchange.method:
                    return route, endpoint, found.groupdict()
                methods.add(route.method)
        if methods:
            raise MethodNotAllowed(exchange.method, *methods)
        raise NotFound(f"no such path of the Open Inference Protocol: {exchange.path}")

    async def _other(self, exchange: Exchange, route: Route, endpoint: Endpoint, fields: dict[str, str]) -> None:
        wire = _RouteWire(route, fields)
        body = await unary(endpoint, exchange.body(self._most), exchange.call(endpoint), wire, self._most)
        await exchange.reply(body, code=OK if wire.holds else NOT_SO)

    async def _infer(self, exchange: Exchange, endpoint: Endpoint, fields: dict[str, str]) -> None:
        given = exchange.headers.get(HEADER_LENGTH)
        if given is not None and not (given.isascii() and given.isdigit() and len(given) <= DIGITS):
            raise InvalidArgument(f"the header {HEADER_LENGTH} is {given!r}; send the number of bytes of JSON")
        wire = InferWire(fields["name"], fields.get("version", ""), None if given is None else int(given))
        body = await unary(endpoint, exchange.body(self._most), exchange.call(endpoint), wire, self._most)
        length = wire.response_header_length
        if length is None:
            await exchange.reply(body)
        else:
            await exchange.reply(body, BINARY, [(HEADER_LENGTH, str(length))])
