"""How much one client may ask of this process: a token bucket for the rate, a count of what is under way."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from services.errors import ResourceExhausted

# When another of a client's own RPCs ends is not known; it is asked to look again after this.
CONCURRENCY_RETRY_SECONDS = 0.1
_ROUNDING = 1e-6  # of a request: a caller that waits exactly as long as it was told is let in


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a client may ask; 0 = without limit.

    Args:
        rate: requests per second.
        burst: requests at once after a pause; 0 = a second's worth.
        concurrency: RPCs under way.
    """

    rate: float = 0
    burst: int = 0
    concurrency: int = 0

    @property
    def size(self) -> int:
        """What the bucket holds."""
        return self.burst or max(1, math.ceil(self.rate))


class _Usage:
    """What one client has left and has under way."""

    __slots__ = ("active", "left", "updated")

    def __init__(self, left: float) -> None:
        self.left, self.updated, self.active = left, time.monotonic(), 0


class Lease:
    """One admitted RPC of a client."""

    __slots__ = ("_allowance", "_client", "_usage")

    def __init__(self, client: str, usage: _Usage, allowance: Allowance) -> None:
        self._client, self._usage, self._allowance = client, usage, allowance

    def take(self) -> None:
        """Count one request against the rate.

        Raises:
            ResourceExhausted: says when there will be room.
        """
        rate = self._allowance.rate
        if not rate:
            return
        usage, now = self._usage, time.monotonic()
        usage.left = min(self._allowance.size, usage.left + (now - usage.updated) * rate)
        usage.updated = now
        if usage.left < 1 - _ROUNDING:
            wait = (1 - usage.left) / rate
            raise ResourceExhausted(
                f"client {self._client} may send {rate:g} requests per second; try again in {wait:.3g} s",
                retry_after=wait,
            )
        usage.left -= 1

    def release(self) -> None:
        """The RPC ended."""
        self._usage.active -= 1


class Quota:
    """Every client's use. Of more than `clients`, the one that has been quiet longest is forgotten."""

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._usages: OrderedDict[str, _Usage] = OrderedDict()

    def admit(self, client: str, allowance: Allowance) -> Lease | None:
        """Count one RPC of a client; None = it has no limits.

        Raises:
            ResourceExhausted: says when there will be room.
        """
        if not (allowance.rate or allowance.concurrency):
            return None
        usage = self._usage(client, allowance)
        if allowance.concurrency and usage.active >= allowance.concurrency:
            raise ResourceExhausted(
                f"client {client} may have {allowance.concurrency} RPCs under way; wait for one to end",
                retry_after=CONCURRENCY_RETRY_SECONDS,
            )
        lease = Lease(client, usage, allowance)
        lease.take()
        usage.active += 1
        return lease

    def _usage(self, client: str, allowance: Allowance) -> _Usage:
        usage = self._usages.get(client)
        if usage is not None:
            self._usages.move_to_end(client)
            return usage
        if len(self._usages) >= self._clients:
            # A client with RPCs under way is kept: forgetting it would let it start over.
            quiet = next((name for name, known in self._usages.items() if not known.active), None)
            if quiet is not None:
                del self._usages[quiet]
        usage = self._usages[client] = _Usage(allowance.size)
        return usage
