"""Several pictures of one request: large ones spread over the codec pool's threads, within the budget and in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from artifacts.card import ImagePreprocessing
from services.budget import Budget
from services.codecs import images
from services.errors import InvalidArgument
from services.limits import Limits
from services.pools import Pool
from tests.conftest import encode

pytestmark = pytest.mark.unit

PREPROCESSING = ImagePreprocessing(height=8, width=8, channels=3, resample="box")
LARGE, SMALL = (1200, 900), (100, 90)
LARGE_BYTES = 3 * LARGE[0] * LARGE[1]
DECODE = images.to_array


class CountingPool(Pool):
    """Two threads, and how many items they were given."""

    def __init__(self) -> None:
        super().__init__("test", 2, 60)
        self.items = 0

    async def run(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        self.items += 1
        return await super().run(function, *arguments, **keywords)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> CountingPool:
    pool = CountingPool()
    monkeypatch.setattr("services.pools.codecs", pool)
    return pool


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Budget:
    """Memory for one large picture at a time."""
    budget = Budget("test", LARGE_BYTES + 1)
    monkeypatch.setattr("services.budget.decoding", budget)
    return budget


def grey(level: int, size: tuple[int, int]) -> bytes:
    return encode(np.full((*size, 3), level, np.uint8))


async def decoded(pictures: Sequence[bytes]) -> list[int]:
    """The level of grey of each."""
    arrays = await images.decode_images(pictures, PREPROCESSING, Limits())
    assert all((array == array[0, 0, 0]).all() for array in arrays)
    return [int(array[0, 0, 0]) for array in arrays]


async def test_large_pictures_are_decoded_at_once_and_come_back_in_order(
    pool: CountingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)

    def meeting(picture: images.Picture, *arguments: Any) -> Any:
        both.wait(60)
        return DECODE(picture, *arguments)

    monkeypatch.setattr(images, "to_array", meeting)
    levels = [10, 20, 30, 40]
    assert await decoded([grey(level, LARGE) for level in levels]) == levels


async def test_small_pictures_stay_together_beside_large_ones(pool: CountingPool) -> None:
    levels = list(range(16))
    assert await decoded([grey(level, SMALL) for level in levels]) == levels
    assert pool.items == 2  # headers, pixels
    levels = [1, 2, 200, 3, 4]
    sizes = [SMALL, SMALL, LARGE, SMALL, SMALL]
    assert await decoded([grey(level, size) for level, size in zip(levels, sizes, strict=True)]) == levels
    assert pool.items == 2 + 4  # headers, the pixels before, of and after the large one


async def test_pictures_for_which_there_is_no_memory_wait_for_their_turn(
    pool: CountingPool, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0

    def counted(picture: images.Picture, *arguments: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        array = DECODE(picture, *arguments)
        running -= 1
        return array

    monkeypatch.setattr(images, "to_array", counted)
    assert await decoded([grey(level, LARGE) for level in (1, 2, 3)]) == [1, 2, 3]
    assert most == 1
    assert budget.try_take(budget.total)  # everything was given back


@pytest.mark.parametrize("end", ["cancelled", "one is broken"])
async def test_a_request_that_ends_early_holds_no_memory_and_decodes_no_more(
    pool: CountingPool, budget: Budget, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    entered, release, count = asyncio.Event(), threading.Event(), 0
    loop = asyncio.get_running_loop()

    def hanging(picture: images.Picture, preprocessing: ImagePreprocessing, field: str) -> Any:
        nonlocal count
        count += 1
        loop.call_soon_threadsafe(entered.set)
        release.wait(60)
        raise InvalidArgument.field(field, "is broken")

    monkeypatch.setattr(images, "to_array", hanging)
    request = asyncio.ensure_future(decoded([grey(1, LARGE)] * 3))
    await entered.wait()
    if end == "cancelled":
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    release.set()
    if end != "cancelled":
        with pytest.raises(InvalidArgument, match=r"images\[0\].*is broken"):
            await request
    await asyncio.sleep(0)
    assert budget.try_take(budget.total)
    assert count == 1
