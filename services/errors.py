"""Everything that can go wrong with a request. The status code lives on the class; `services.server.pipeline` maps it.

Only messages of these classes reach a client. Any other exception is INTERNAL with a generic text; its detail goes to
the log under the request id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.excerpt import excerpt

FieldViolation = tuple[str, str]
FIELD_BYTES, DESCRIPTION_BYTES = 100, 900
VIOLATION_BYTES = 1500  # of all in one status: gRPC's clients take 8 KiB of trailers, and lose the status over that


class ServiceError(Exception):
    """A failure that a client is told about.

    Args:
        message: what was wrong and what to do, for people; an excerpt of it is kept where it is long.
        violations: request fields at fault, each with what is wrong with it.
        retry_after: seconds after which trying again makes sense.
    """

    code: ClassVar[int] = code_pb2.INTERNAL

    def __init__(
        self, message: str, *, violations: Sequence[FieldViolation] = (), retry_after: float | None = None
    ) -> None:
        self.message = excerpt(message)
        super().__init__(self.message)
        self.violations = tuple((excerpt(f, FIELD_BYTES), excerpt(d, DESCRIPTION_BYTES)) for f, d in violations)
        self.retry_after = retry_after

    @classmethod
    def field(cls, field: str, description: str) -> ServiceError:
        """The error of one request field."""
        return cls(f"{field}: {description}", violations=[(field, description)])

    def status(self) -> status_pb2.Status:
        """This error as a google.rpc.Status with BadRequest and RetryInfo details."""
        status = status_pb2.Status(code=self.code, message=self.message)
        if self.violations:
            details = error_details_pb2.BadRequest()
            for field, description in self.violations:
                details.field_violations.add(field=field, description=description)
                if details.ByteSize() > VIOLATION_BYTES and len(details.field_violations) > 1:
                    del details.field_violations[-1]
                    break
            status.details.add().Pack(details)
        if self.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_after * 1e9))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status


class InvalidArgument(ServiceError):
    """The request can never succeed as it is."""

    code = code_pb2.INVALID_ARGUMENT


class NotFound(ServiceError):
    """No such model or version."""

    code = code_pb2.NOT_FOUND


class ResourceExhausted(ServiceError):
    """A queue or a limit is full; try again later."""

    code = code_pb2.RESOURCE_EXHAUSTED


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed, or cannot be met."""

    code = code_pb2.DEADLINE_EXCEEDED


class Unavailable(ServiceError):
    """The model is loading or out of service, or the server is draining."""

    code = code_pb2.UNAVAILABLE


class Unimplemented(ServiceError):
    """The RPC is in the contract but not served."""

    code = code_pb2.UNIMPLEMENTED


class Unauthenticated(ServiceError):
    """The call carries no valid token."""

    code = code_pb2.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The operator has not allowed this."""

    code = code_pb2.PERMISSION_DENIED


class Cancelled(ServiceError):
    """The caller went away."""

    code = code_pb2.CANCELLED


class Internal(ServiceError):
    """A fault of ours."""

    code = code_pb2.INTERNAL
