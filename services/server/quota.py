"""Quotas of clients in this process: a token bucket for the rate, and a count of RPCs under way."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from services.errors import ResourceExhausted

# Nobody knows when one of a client's RPCs will end; the client is asked to retry after this time.
CONCURRENCY_RETRY_SECONDS = 0.1
_ROUNDING = 1e-6  # of a request, so that a caller which waits exactly `retry_after` is admitted


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of a client; 0 = no limit.

    Args:
        rate: requests per second.
        burst: requests at once after a pause; 0 = a second's worth.
        concurrency: RPCs under way at once.
    """

    rate: float = 0
    burst: int = 0
    concurrency: int = 0

    @property
    def limits(self) -> bool:
        """Whether it limits anything."""
        return bool(self.rate or self.concurrency)

    @property
    def size(self) -> int:
        """Capacity of the token bucket."""
        return self.burst or max(1, math.ceil(self.rate))


class _Usage:
    """One client's remaining requests and active RPCs."""

    __slots__ = ("active", "left", "updated")

    def __init__(self, left: float) -> None:
        self.left, self.updated, self.active = left, time.monotonic(), 0


class Lease(Protocol):
    """One admitted RPC of a client."""

    def take(self) -> None:
        """Count one request against the rate.

        Raises:
            ResourceExhausted: the client exceeds its rate; says when to retry.
        """

    def release(self) -> None:
        """Note that the RPC has ended."""


class UsageCounter(Protocol):
    """Counts what clients use."""

    def admit(self, client: str, allowance: Allowance) -> Lease | None:
        """Count one RPC of a client; None = it has no limits.

        Raises:
            ResourceExhausted: the client exceeds its rate; says when to retry.
        """


class _Lease:
    __slots__ = ("_allowance", "_client", "_usage")

    def __init__(self, client: str, usage: _Usage, allowance: Allowance) -> None:
        self._client, self._usage, self._allowance = client, usage, allowance

    def take(self) -> None:
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
        self._usage.active -= 1


class Quota:
    """The usage of every client. Beyond `clients`, the one that has been idle longest is forgotten."""

    def __init__(self, clients: int) -> None:
        self._clients = clients
        self._usages: OrderedDict[str, _Usage] = OrderedDict()

    def admit(self, client: str, allowance: Allowance) -> Lease | None:
        if not allowance.limits:
            return None
        usage = self._usage(client, allowance)
        if allowance.concurrency and usage.active >= allowance.concurrency:
            raise ResourceExhausted(
                f"client {client} may have {allowance.concurrency} RPCs under way; wait for one to end",
                retry_after=CONCURRENCY_RETRY_SECONDS,
            )
        lease = _Lease(client, usage, allowance)
        lease.take()
        usage.active += 1
        return lease

    def __len__(self) -> int:
        return len(self._usages)

    def _usage(self, client: str, allowance: Allowance) -> _Usage:
        usage = self._usages.get(client)
        if usage is not None:
            self._usages.move_to_end(client)
            return usage
        if len(self._usages) >= self._clients:
            # A client with RPCs under way is kept: forgetting it would let it start over.
            idle = next((name for name, usage in self._usages.items() if not usage.active), None)
            if idle is not None:
                del self._usages[idle]
        usage = self._usages[client] = _Usage(allowance.size)
        return usage
