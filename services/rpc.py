"""An RPC as servicers see it, independent of the transport."""

from __future__ import annotations

import random
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
        request_id: the caller's `x-request-id`, or a generated one.
        client: the name of the caller's token, or the subject of its certificate; empty if it has neither.
        model: name and version of the model that answers, set by the servicer for the log.
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
        """The caller's `x-priority`, as for `Graph.infer`; 0 if there is none.

        Raises:
            InvalidArgument: it is not a number, or too long.
        """
        given = self.metadata.get(PRIORITY)
        if given is None:
            return 0
        if not (given.isascii() and given.isdigit() and len(given) <= PRIORITY_DIGITS):
            raise InvalidArgument(f"metadata {PRIORITY} is {given!r}; send a number from 1 (the highest), or nothing")
        return int(given)

    @property
    def caller(self) -> str:
        """The caller: `client` if known, otherwise its address without the port."""
        return self.client or self.peer.rpartition(":")[0]


def merged(headers: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Textual metadata by key. The values of a repeated key are joined as in HTTP, so that none of them wins: two
    tokens are not a valid token, two priorities not a valid priority."""
    metadata: dict[str, str] = {}
    for key, value in headers:
        if isinstance(value, str):
            metadata[key] = f"{metadata[key]}, {value}" if key in metadata else value
    return metadata


def accepted_request_id(given: str) -> str:
    """The caller's request id if it is safe in a header and a log, otherwise a new one."""
    if given and _ACCEPTED_ID.fullmatch(given):
        return given
    # Not os.urandom: its system call hands the GIL to a waiting thread, which cost 9 % of a call's CPU.
    return f"{random.getrandbits(128):032x}"
