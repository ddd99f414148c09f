"""Hours in small: mixed calls, bad input, cancellations, and a repository that is copied into, linked over and damaged;
in the end nothing leaked or went unanswered, and what is there is served.

15 seconds in a test run; `make soak` takes SOAK_SECONDS=900 and prints what it saw.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from lectern import LecternError
from lectern.aio import Client
from tests.conftest import Server, encode, serving
from tests.runtime.test_hostile_repository import give_up_root_rights
from tests.runtime.test_lifecycle import MODEL
from tests.server.disturbances import (
    DAMAGED,
    DISTURBANCES,
    LINKED,
    LOCKED,
    Disturbance,
    batch_of,
    copy_slowly,
    most_rows,
    prepare,
    ready,
    swap_links,
)
from tests.server.test_server import get, sample
from tests.waiting import WAIT, wait_until

SECONDS = float(os.environ.get("SOAK_SECONDS", "15"))
CALLERS = 8
PAUSE_SECONDS = 0.02
GROWTH_MB = 60.0
FEATURES = 116

Action = Callable[[Client], Awaitable[object]]


@dataclass
class Seen:
    """What happened.

    Args:
        calls: how many ended as they should, by code.
        failed: how many did not, by what was asked and how it ended.
        memory: resident, in MB, in each second.
        rounds: how often each disturbance was gone through.
    """

    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    rounds: dict[Disturbance, int] = field(default_factory=dict)


def test_a_long_mixed_load_on_a_disturbed_repository_leaks_and_fails_nothing(
    tmp_path: Path, repository: Path, photos: np.ndarray
) -> None:
    prepare(repository)
    watch = {"LECTERN_WATCH_SECONDS": "0.2"}
    with serving(tmp_path, repository=repository, before=give_up_root_rights, **watch) as server:
        seen, images = Seen(), [encode(photo) for photo in photos[:20]]
        at_rest = [resting_mb(server)]
        for _ in range(2):
            asyncio.run(soak(server, repository, images, seen))
            at_rest.append(resting_mb(server))
        tell(seen, at_rest)
        metrics = get(f"{server.metrics_url}/metrics")
        errors = [str(r["message"]) for r in server.log_records() if r["level"] == "ERROR"]
        served = {name: ready(server, name) for name in (MODEL, LINKED, DAMAGED, LOCKED)}
        rows = most_rows(server, LINKED)
    # While it works, photos and activations come and go by the hundred MB; at rest the second half has left no more.
    assert at_rest[2] < at_rest[1] + GROWTH_MB
    assert not seen.failed
    assert set(seen.calls) == {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED"}
    assert served == {MODEL: [1 + seen.rounds[copy_slowly]], LINKED: [1], DAMAGED: [1], LOCKED: [1]}
    assert rows == batch_of(seen.rounds[swap_links])
    assert [e for e in errors if not e.startswith(tuple(f"model {name} version" for name in served))] == []
    assert sample(metrics, "lectern_queue_depth", model="covid_regressor", version="1") == 0


def resting_mb(server: Server) -> float:
    """Resident memory, in MB, once it stays as it is."""
    process, readings = psutil.Process(server.pid), [0.0]

    def steady() -> bool:
        readings.append(process.memory_info().rss / 1e6)
        time.sleep(1)
        return len(readings) > 5 and max(readings[-4:]) - min(readings[-4:]) < 1

    wait_until(steady)
    return readings[-1]


def tell(seen: Seen, at_rest: list[float]) -> None:
    """Print what happened, however the test ends."""
    rounds = {disturbance.__name__: count for disturbance, count in seen.rounds.items()}
    least = " ".join(f"{min(part):.0f}" for part in np.array_split(seen.memory, 10))
    print(f"{seen.calls.total()} calls: {dict(seen.calls)}; failed: {dict(seen.failed)}; {rounds}")  # noqa: T201
    print(f"MB at rest: {[round(mb) for mb in at_rest]}, least in each tenth of the time: {least}")  # noqa: T201


async def soak(server: Server, repository: Path, images: list[bytes], seen: Seen) -> None:
    """Call and disturb for half of the time."""
    process = psutil.Process(server.pid)
    started = time.monotonic()
    actions = actions_of(images)

    def running() -> bool:
        return time.monotonic() < started + SECONDS / 2

    async def caller(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311
        async with Client(server.target, timeout=WAIT) as client:
            while running():
                await asyncio.sleep(PAUSE_SECONDS)
                name = choose.choice(list(actions))
                expected, action = actions[name]
                problem = ""
                try:
                    await action(client)
                    code = "OK"
                except LecternError as error:
                    code, problem = error.code().name, error.details() or ""
                except asyncio.CancelledError:
                    code = "CANCELLED"
                if code == expected:
                    seen.calls[code] += 1
                else:
                    seen.failed[f"{name}: {code} {problem}"] += 1

    async def disturber(disturb: Disturbance, rest_seconds: float) -> None:
        seen.rounds.setdefault(disturb, 0)
        while running():
            await asyncio.to_thread(disturb, server, repository, seen.rounds[disturb] + 1)
            seen.rounds[disturb] += 1
            await asyncio.sleep(rest_seconds)

    async def sampler() -> None:
        while running():
            seen.memory.append(process.memory_info().rss / 1e6)
            await asyncio.sleep(1)

    callers, disturbers = map(caller, range(CALLERS)), (disturber(*item) for item in DISTURBANCES.items())
    await asyncio.gather(*callers, *disturbers, sampler())


def actions_of(images: list[bytes]) -> dict[str, tuple[str, Action]]:
    """What callers do, good and bad, each with the code that it must get."""
    row = [0.5] * FEATURES

    async def cancelled(client: Client) -> None:
        task = asyncio.ensure_future(client.classify_image(images * 12, timeout=WAIT))
        await asyncio.sleep(0.02)
        task.cancel()
        await task

    async def stream(client: Client) -> None:
        count = 0
        async for response in client.stream_classify_image([[image] for image in images[:5]], timeout=WAIT):
            count += len(response.results)
        assert count == 5

    def predict(name: str) -> Action:
        return lambda client: client.predict([[0.0]], model=name, timeout=WAIT)

    return {
        "image": ("OK", lambda client: client.classify_image(images[0], timeout=WAIT)),
        "images": ("OK", lambda client: client.classify_image(images, timeout=WAIT)),
        "rows": ("OK", lambda client: client.predict([row, row], timeout=WAIT)),
        **{name: ("OK", predict(name)) for name in (LINKED, DAMAGED, LOCKED)},
        "models": ("OK", lambda client: client.list_models(timeout=WAIT)),
        "stream": ("OK", stream),
        "no image": ("INVALID_ARGUMENT", lambda client: client.classify_image(b"not an image", timeout=WAIT)),
        "cut image": ("INVALID_ARGUMENT", lambda client: client.classify_image(images[0][:100], timeout=WAIT)),
        "not a number": ("INVALID_ARGUMENT", lambda client: client.predict([[float("nan")] * FEATURES], timeout=WAIT)),
        "no model": ("NOT_FOUND", lambda client: client.classify_image(images[0], model="nobody", timeout=WAIT)),
        "cancelled": ("CANCELLED", cancelled),
    }
