"""Replies: a google.rpc.Status as JSON under the HTTP code that google/rpc/code.proto names for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2, error_details_pb2, status_pb2
from starlette.types import Send

from services.server.door.json_wire import dump

OK = 200
JSON_TYPE = "application/json"
# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
HTTP_CODES: Mapping[int, int] = {
    code_pb2.OK: OK,
    code_pb2.CANCELLED: 499,
    code_pb2.UNKNOWN: 500,
    code_pb2.INVALID_ARGUMENT: 400,
    code_pb2.DEADLINE_EXCEEDED: 504,
    code_pb2.NOT_FOUND: 404,
    code_pb2.ALREADY_EXISTS: 409,
    code_pb2.PERMISSION_DENIED: 403,
    code_pb2.UNAUTHENTICATED: 401,
    code_pb2.RESOURCE_EXHAUSTED: 429,
    code_pb2.FAILED_PRECONDITION: 400,
    code_pb2.ABORTED: 409,
    code_pb2.OUT_OF_RANGE: 400,
    code_pb2.UNIMPLEMENTED: 501,
    code_pb2.INTERNAL: 500,
    code_pb2.UNAVAILABLE: 503,
    code_pb2.DATA_LOSS: 500,
}

Headers = Iterable[tuple[str, str]]


async def reply(send: Send, code: int, body: bytes, kind: str = JSON_TYPE, headers: Headers = ()) -> None:
    """Send a whole response with this HTTP code."""
    await begin(send, code, kind, (("content-length", str(len(body))), *headers))
    await send({"type": "http.response.body", "body": body})


async def begin(send: Send, code: int, kind: str, headers: Headers = ()) -> None:
    """Send code and headers; the body follows."""
    shown = (("content-type", kind), ("x-content-type-options", "nosniff"), *headers)
    encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in shown]
    await send({"type": "http.response.start", "status": code, "headers": encoded})


def error_body(status: status_pb2.Status, *, inference: bool = False) -> bytes:
    """The status as JSON, its details in full; with `error`, as the Open Inference Protocol calls the message."""
    return dump(MessageToDict(status) | ({"error": status.message} if inference else {}))


def hints(status: status_pb2.Status) -> Headers:
    """What HTTP says in a header of its own."""
    if status.code == code_pb2.UNAUTHENTICATED:
        yield "www-authenticate", "Bearer"
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            yield "retry-after", str(math.ceil(retry.retry_delay.ToNanoseconds() / 1e9))
