"""An RPC as servicers see it, whatever transport carried it."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.errors import InvalidArgument

PRIORITY = "x-priority"


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
            InvalidArgument: it is no number.
        """
        given = self.metadata.get(PRIORITY, "0")
        if not (given.isascii() and given.isdigit()):
            raise InvalidArgument(f"metadata {PRIORITY} is {given!r}; send a number from 1, the first, or nothing")
        return int(given)
