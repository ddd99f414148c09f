"""Hours in small: mixed calls, bad input, cancellations and reloads, and in the end nothing leaked or went unanswered.

15 seconds in a test run; `make soak` takes SOAK_SECONDS=900 and prints what it saw.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil

from lectern import LecternError
from lectern.aio import Client
from tests.conftest import Server, encode, serving
from tests.runtime.test_lifecycle import MODEL, add_version, versions
from tests.server.test_server import get, sample
from tests.waiting import WAIT, wait_until

SECONDS = float(os.environ.get("SOAK_SECONDS", "15"))
CALLERS = 8
RELOAD_SECONDS = 3.0
PAUSE_SECONDS = 0.02
GROWTH_MB = 60.0
FEATURES = 116

Action = Callable[[Client], Awaitable[object]]


def test_a_long_mixed_load_leaks_nothing(tmp_path: Path, repository: Path, photos: np.ndarray) -> None:
    with serving(tmp_path, repository=repository, LECTERN_WATCH_SECONDS="0.2") as server:
        ended, memory = asyncio.run(soak(server, repository, [encode(photo) for photo in photos[:20]]))
        metrics = get(f"{server.metrics_url}/metrics")
        errors = [r for r in server.log_records() if r["level"] == "ERROR"]
    least = " ".join(f"{min(part):.0f}" for part in np.array_split(memory[1:-1], 10))
    print(f"{ended.total()} calls: {dict(ended)}")  # noqa: T201
    print(f"MB at rest {memory[0]:.0f}, least in each tenth {least}, at rest again {memory[-1]:.0f}")  # noqa: T201
    assert set(ended) == {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED"}
    assert not errors
    assert sample(metrics, "lectern_queue_depth", model="covid_regressor", version="1") == 0


async def soak(server: Server, repository: Path, images: list[bytes]) -> tuple[Counter[str], list[float]]:
    """How many calls ended with which code; resident memory in MB at rest, in each second, and at rest again.

    While it works, photos and activations come and go by the hundred MB; at rest all but GROWTH_MB is given back.
    """
    process, ended = psutil.Process(server.pid), Counter[str]()
    memory = [process.memory_info().rss / 1e6]
    started = time.monotonic()
    actions = actions_of(images)

    def running() -> bool:
        return time.monotonic() < started + SECONDS

    async def caller(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311
        async with Client(server.target, timeout=WAIT) as client:
            while running():
                await asyncio.sleep(PAUSE_SECONDS)
                try:
                    await choose.choice(actions)(client)
                    ended["OK"] += 1
                except LecternError as error:
                    ended[error.code().name] += 1
                except asyncio.CancelledError:
                    ended["CANCELLED"] += 1

    def reload(number: int) -> None:
        add_version(repository, number)
        wait_until(lambda: list(versions(server)) == [number])
        if number > 2:  # the first stays: versions are copies of it
            shutil.rmtree(repository / MODEL / str(number - 1))

    async def reloader() -> None:
        number = 2
        while running():
            await asyncio.to_thread(reload, number)
            await asyncio.sleep(RELOAD_SECONDS)
            number += 1

    async def sampler() -> None:
        while running():
            memory.append(process.memory_info().rss / 1e6)
            await asyncio.sleep(1)

    await asyncio.gather(*(caller(i) for i in range(CALLERS)), reloader(), sampler())
    await asyncio.to_thread(wait_until, lambda: process.memory_info().rss / 1e6 < memory[0] + GROWTH_MB)
    return ended, [*memory, process.memory_info().rss / 1e6]


def actions_of(images: list[bytes]) -> list[Action]:
    """What callers do, good and bad."""
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

    return [
        lambda client: client.classify_image(images[0], timeout=WAIT),
        lambda client: client.classify_image(images, timeout=WAIT),
        lambda client: client.predict([row, row], timeout=WAIT),
        lambda client: client.list_models(timeout=WAIT),
        lambda client: client.classify_image(b"not an image", timeout=WAIT),
        lambda client: client.classify_image(images[0][:100], timeout=WAIT),
        lambda client: client.classify_image(images[0], model="nobody", timeout=WAIT),
        lambda client: client.predict([[float("nan")] * FEATURES], timeout=WAIT),
        stream,
        cancelled,
    ]
