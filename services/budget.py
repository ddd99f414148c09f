"""Budgets of memory for all requests: a request that does not fit waits for its turn, so the process is not killed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from services import metrics
from services.errors import InvalidArgument, ResourceExhausted

RETRY_AFTER_SECONDS = 0.5
UNLIMITED = 2**62
EARLIER = 0.9  # share of the time to the deadline after which waiting ends
LEAST_BYTES = 32 * 2**20
MESSAGE_COPIES = 3  # a message exists as bytes, parsed and as arrays
SHARE_OF_LIMIT, SHARE_OF_FREE = 2, 4  # the budget is the remaining memory divided by this


@dataclass(slots=True, eq=False)
class _Waiter:
    amount: int
    loop: asyncio.AbstractEventLoop
    granted: asyncio.Future[None]
    held: bool = False


class Budget:
    """Bytes that callers on any event loop hold; those who wait get them in order of arrival.

    Args:
        name: its label in metrics.
        total: bytes in all.
    """

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._held = 0
        self._waiters: deque[_Waiter] = deque()
        self._lock = threading.Lock()
        self._held_bytes = metrics.BUDGET_HELD.labels(name)
        metrics.BUDGET_TOTAL.labels(name).set(total)

    @property
    def total(self) -> int:
        return self._total

    @asynccontextmanager
    async def hold(self, amount: int, what: str) -> AsyncIterator[None]:
        """Hold `amount` bytes for a `with` block; waits for them until the caller's `deadline`.

        Args:
            what: the field or message that needs them, for errors.

        Raises:
            InvalidArgument: it is more than the total. ResourceExhausted: the bytes are not free in time.
        """
        await self.take(amount, what)
        try:
            yield
        finally:
            self.give_back(amount)

    def resize(self, total: int) -> None:
        """Set the total; call it before anything is held."""
        self._total = total
        metrics.BUDGET_TOTAL.labels(self._name).set(total)

    def try_take(self, amount: int) -> bool:
        """Take the bytes if they are free; returns whether they were."""
        with self._lock:
            if self._waiters or self._held + amount > self._total:
                return False
            self._add(amount)
            return True

    async def take(self, amount: int, what: str) -> None:
        """As `hold`, but until `give_back`."""
        if amount > self._total:
            raise InvalidArgument.field(
                what, f"needs {amount:,} bytes of memory; all requests together may hold {self._total:,}"
            )
        if self.try_take(amount):
            return
        loop = asyncio.get_running_loop()
        waiter, timer = _Waiter(amount, loop, loop.create_future()), None
        with self._lock:
            self._waiters.append(waiter)
        self._grant()  # in case bytes were given back meanwhile
        if (until := deadline.get()) != float("inf"):
            # A little before the deadline, so that the caller gets the reason and not just DEADLINE_EXCEEDED.
            timer = loop.call_later(EARLIER * (until - time.monotonic()), _expire, waiter)
        try:
            await waiter.granted
        except BaseException:
            with self._lock:
                if waiter.held:
                    self._add(-amount)
                else:
                    self._waiters.remove(waiter)
            self._grant()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def give_back(self, amount: int) -> None:
        """Free bytes that were taken."""
        with self._lock:
            self._add(-amount)
        self._grant()

    def _grant(self) -> None:
        with self._lock:
            while self._waiters and self._held + self._waiters[0].amount <= self._total:
                waiter = self._waiters.popleft()
                waiter.held = True
                self._add(waiter.amount)
                waiter.loop.call_soon_threadsafe(_wake, waiter.granted)

    def _add(self, amount: int) -> None:
        self._held += amount
        self._held_bytes.set(self._held)


def _wake(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_result(None)


def _expire(waiter: _Waiter) -> None:
    if not waiter.granted.done():
        waiter.granted.set_exception(
            ResourceExhausted(
                f"other requests hold the memory: {waiter.amount:,} bytes are not free; try again later",
                retry_after=RETRY_AFTER_SECONDS,
            )
        )


deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))
"""The deadline of the call that this task works for, in `time.monotonic()` seconds."""

# The budgets of this process. A request takes from `arriving` first, from `messages` second and from `decoding` third,
# never the other way round, so that no two requests wait for each other.
arriving = Budget("arriving", UNLIMITED)
messages = Budget("messages", UNLIMITED)
decoding = Budget("decoding", UNLIMITED)


def set_total(total: int) -> None:
    """Divide the bytes that all requests of this process may hold between the budgets."""
    messages.resize(total // 3)
    arriving.resize(messages.total // MESSAGE_COPIES)
    decoding.resize(total - messages.total - arriving.total)


def default_total(workers: int) -> int:
    """Bytes for one of `workers` processes that have loaded their models: its share of half the memory that the
    cgroup's limit leaves, or without a limit of a quarter of the machine's free memory."""
    resident = _kibibytes("/proc/self/status", "VmRSS") * 1024 * workers
    free, limit = _kibibytes("/proc/meminfo", "MemAvailable") * 1024, _cgroup_limit()
    left = free // SHARE_OF_FREE if limit is None else min(limit - resident, free) // SHARE_OF_LIMIT
    return max(LEAST_BYTES, left // workers)


def _kibibytes(file: str, name: str) -> int:
    """The number in a line like `VmRSS:  1234 kB` of a file of proc(5)."""
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == f"{name}:")


def _cgroup_limit() -> int | None:
    """The memory limit of this process's cgroup and those above it (cgroups(7), version 2 or 1); None = no limit."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    limits: list[int] = []
    for _, controllers, path in lines:
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's, while the container's own group is mounted at the root.
        group = root / path.lstrip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(root):
                break
            try:
                value = (directory / name).read_text().strip()
            except OSError:
                continue
            if value.isdigit() and int(value) < 2**60:
                limits.append(int(value))
    return min(limits, default=None)
