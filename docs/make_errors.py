"""Write docs/errors.md from the classes of errors and the contract's notices: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.rpc import code_pb2

from docs.contract import comment_of, files
from services.errors import ServiceError

TARGET = Path(__file__).with_name("errors.md")
HEAD = """\
# Errors and notices

Written by `make docs` from the classes of errors and the contract; do not edit.

## Errors

A call that fails ends with a `google.rpc.Status`: a code, a message that says what was wrong and what to do, and
details. Over gRPC the details are in the trailer `grpc-status-details-bin`, over JSON in the body. The trailer
`x-request-id` names the call in the server's log.

| code | details | means | do |
| --- | --- | --- | --- |
"""
NOTICES = """
In Python an error is a `lectern.LecternError`, with `code()`, `details()`, `violations`, `retry_after` and
`request_id`. The command line prints the message and the violations, and ends with 1.

## Notices

An answer that deserves doubt is still an answer: its results carry notices, each with a code, a text and the field
that it is about.

| code | means |
| --- | --- |
"""
FIELDS, RETRY = "BadRequest: each field and its fault", "RetryInfo: when to come back"
# Code -> details, and what a caller does.
ADVICE = {
    "INVALID_ARGUMENT": (FIELDS, "Change what the fields say; the same request fails again."),
    "NOT_FOUND": (FIELDS, "Take one of the names that the message lists, or `ListModels`."),
    "RESOURCE_EXHAUSTED": (
        f"{RETRY}, where waiting helps",
        "Wait that long and try again, or ask for less. Without RetryInfo a limit was exceeded: send less.",
    ),
    "DEADLINE_EXCEEDED": ("", "Allow more time (`--timeout`), send less at once, or see whether the queue is long."),
    "UNAVAILABLE": (
        "",
        "Try again after a moment. `lectern.Client` does, four times; `lectern models` says why if it stays so.",
    ),
    "UNIMPLEMENTED": ("", "Ask a server that serves this capability, or another engine; the message says which."),
    "UNAUTHENTICATED": ("", "Send a valid token: `LECTERN_TOKEN` or `token=`. See [security.md](security.md#tokens)."),
    "PERMISSION_DENIED": ("", "Ask the operator for the scope or the setting that the message names."),
    "CANCELLED": ("", "Nothing: the caller ended the call."),
    "INTERNAL": ("", "Report it with the request id; the log has the cause under it."),
}


def page() -> str:
    """Every code that a class of errors has, then every notice.

    Raises:
        KeyError: a new class has a code for which ADVICE says nothing.
    """
    return HEAD + "".join(error_rows()) + NOTICES + "".join(notice_rows())


def error_rows() -> Iterator[str]:
    """A row of the table for each class directly below ServiceError."""
    for error in ServiceError.__subclasses__():
        code = code_pb2.Code.Name(error.code)
        details, advice = ADVICE[code]
        yield f"| `{code}` | {details} | {(error.__doc__ or '').strip()} | {advice} |\n"


def notice_rows() -> Iterator[str]:
    """A row for each code of notice.proto."""
    for file in files():
        for index, enum in enumerate(file.enum_type):
            if enum.name == "NoticeCode":
                for place, value in list(enumerate(enum.value))[1:]:
                    yield f"| `{value.name}` | {comment_of(file, 5, index, 2, place)} |\n"


if __name__ == "__main__":
    TARGET.write_text(page())
