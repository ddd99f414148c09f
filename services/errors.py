"""The errors of requests. Each class carries its status code; `services.server.pipeline` turns errors into statuses.

Only the messages of these classes reach a client. Any other exception becomes INTERNAL with a generic text; its details
go to the log under the request id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.excerpt import excerpt

FieldViolation = tuple[str, str]
FIELD_BYTES, DESCRIPTION_BYTES = 100, 900
VIOLATION_BYTES = 1500  # of all violations: gRPC's clients accept 8 KiB of trailers and lose the status beyond that


class ServiceError(Exception):
    """A failure that is reported to the client.

    Args:
        message: what was wrong and what to do, for people; a long message is shortened.
        violations: the request fields at fault, each with a description of its fault.
        retry_after: seconds after which a retry makes sense.
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
        """An error of one request field."""
        return cls(f"{field}: {description}", violations=[(field, description)])

    @staticmethod
    def of_code(code: int, message: str, *, retry_after: float | None = None) -> ServiceError:
        """An error of the class that has this code; INTERNAL if none has."""
        classes = {cls.code: cls for cls in ServiceError.__subclasses__()}
        return classes.get(code, Internal)(message, retry_after=retry_after)

    @staticmethod
    def of(status: status_pb2.Status) -> ServiceError:
        """The error that has this status."""
        error = ServiceError.of_code(status.code, status.message)
        request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        for detail in status.details:
            if detail.Unpack(request):
                error.violations = tuple((v.field, v.description) for v in request.field_violations)
            elif detail.Unpack(retry):
                error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        return error

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
    """The request cannot succeed unless it is changed."""

    code = code_pb2.INVALID_ARGUMENT


class NotFound(ServiceError):
    """No such model or version."""

    code = code_pb2.NOT_FOUND


class ResourceExhausted(ServiceError):
    """A queue or a limit is full; try again later."""

    code = code_pb2.RESOURCE_EXHAUSTED


class OutOfMemory(ResourceExhausted):
    """The device that runs the graph has too little memory left."""


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
    """A fault of the server."""

    code = code_pb2.INTERNAL
