"""An RPC as servicers see it, whatever transport carried it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.errors import InvalidArgument

PRIORITY = "x-priority"
REQUEST_ID = "x-request-id"
PRIORITY_DIGITS = 9
_ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class Call:
    """One RPC under way.

    Args:
        service, method: e.g. `lectern.v1.ClassifyService`, `ClassifyImage`.
        deadline: in `time.monotonic()` seconds; `inf` if the caller set none.
        request_id: the caller's `x-request-id`, or one made here.
        client: who calls: the name of its token, or the subject of its certificate; empty if it shows neither.
        model: name and version that answers, noted by the servicer for the log.
    """

    service: str
    method: str
    deadline: float
    request_id: str
    peer: str = ""
    metadata: dict[str, str] = field(default_factory=dict, repr=False)  # holds the caller's token
    client: str = ""
    model: str = ""

    @property
    def priority(self) -> int:
        """The caller's `x-priority`, as of `Graph.infer`; 0 if it names none.

        Raises:
            InvalidArgument: it is no number, or too long for one.
        """
        given = self.metadata.get(PRIORITY, "0")
        if not (given.isascii() and given.isdigit() and len(given) <= PRIORITY_DIGITS):
            raise InvalidArgument(f"metadata {PRIORITY} is {given!r}; send a number from 1, the first, or nothing")
        return int(given)

    @property
    def caller(self) -> str:
        """Who calls: the name of its token or certificate, else its address without the port."""
        return self.client or self.peer.rpartition(":")[0]


def merged(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Metadata by key. A key that is given again has all its values, as HTTP joins them, so none of them wins: two
    tokens are no token, two priorities no priority."""
    metadata: dict[str, str] = {}
    for key, value in headers:
        metadata[key] = f"{metadata[key]}, {value}" if key in metadata else value
    return metadata


def accepted_request_id(given: str) -> str:
    """The caller's request id if it can stand in a header and a log, else a new one."""
    return given if _ACCEPTED_ID.fullmatch(given) else os.urandom(16).hex()
