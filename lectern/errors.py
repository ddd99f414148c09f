"""The error that a failed call raises, read from its `google.rpc.Status`."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

REQUEST_ID = "x-request-id"

Metadata = tuple[tuple[str, str | bytes], ...]


class LecternError(grpc.RpcError):
    """A call failed; catch it as `grpc.RpcError` or as itself.

    Attributes:
        violations: `(field, description)` of each wrong part of the request, e.g. `("images[2]", "not an image")`.
        retry_after: seconds after which the server expects to have capacity again; None if it did not say.
        request_id: of the call in the server's log; empty if no server answered.
    """

    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: Metadata = ()) -> None:
        super().__init__(code, details, trailing_metadata)
        self._code, self._details, self._trailing_metadata = code, details, trailing_metadata
        self.violations: tuple[tuple[str, str], ...] = ()
        self.retry_after: float | None = None
        self.request_id = next((str(value) for key, value in trailing_metadata if key == REQUEST_ID), "")
        self._read_details()

    @classmethod
    def of(cls, error: grpc.RpcError) -> LecternError:
        """The same failure as gRPC raised it, for threads or for asyncio."""
        trailing: Any = error.trailing_metadata()  # pairs with both APIs, whatever the type stubs say
        return cls(error.code(), error.details() or "", tuple((key, value) for key, value in trailing or ()))

    def code(self) -> grpc.StatusCode:
        """The status code."""
        return self._code

    def details(self) -> str:
        """The server's message, or gRPC's own if no server answered."""
        return self._details

    def trailing_metadata(self) -> Metadata:  # type: ignore[override]  # the stubs' type is not what gRPC returns
        """What the server sent after its answer, `(key, value)` each."""
        return self._trailing_metadata

    def further_violations(self) -> list[str]:
        """`field: description` of each violation that the message does not contain already."""
        texts = (f"{field}: {description}" for field, description in self.violations)
        return [text for text in texts if text not in self._details]

    def __str__(self) -> str:
        parts = [f"{self._code.name}: {self._details}", *self.further_violations()]
        if self.retry_after is not None:
            parts.append(f"retry after {self.retry_after:g} s")
        if self.request_id and self.request_id not in self._details:
            parts.append(f"request {self.request_id}")
        return "; ".join(parts)

    def _read_details(self) -> None:
        call: Any = self  # it has the three methods that from_call needs
        bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        try:
            status = rpc_status.from_call(call)
            for detail in status.details if status else ():
                if detail.Unpack(bad_request):
                    self.violations += tuple((v.field, v.description) for v in bad_request.field_violations)
                elif detail.Unpack(retry_info):
                    self.retry_after = retry_info.retry_delay.ToTimedelta().total_seconds()
        except (ValueError, DecodeError):
            pass  # a proxy replaced code or message, so the details are not about this failure
