"""What takes longer than a moment runs apart from the event loop, so that no request holds up another's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifacts.card import ImagePreprocessing
from lectern.kinds import kind_of
from lectern.v1 import predict_pb2
from services import metrics
from services.codecs import audio, images, tensors
from services.codecs.audio import Clip
from services.limits import Limits
from services.rpc import Call
from services.server import pipeline
from services.server.pipeline import INLINE_BYTES, Endpoint, Gate
from services.server.registry import Method
from tests.conftest import encode, record

pytestmark = pytest.mark.unit

PREPROCESSING = ImagePreprocessing(height=32, width=32)
CODEC = "codec"


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """By function, the names of the threads that ran it."""
    seen: dict[str, set[str]] = {}

    def watch(module: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(module, name)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread().name)
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, watched)

    for name in ("open_image", "to_array", "encode_png"):
        watch(images, name)
    watch(audio, "decode")
    watch(tensors, "rows_to_matrix")
    watch(pipeline, "check_fields")
    return seen


def noise(height: int, width: int) -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "files",
    [[noise(200, 200)], [encode(np.zeros((3000, 3000, 3), np.uint8))], [noise(8, 8)] * 64],
    ids=["many bytes", "many pixels", "many pictures"],
)
async def test_pictures_are_decoded_apart(threads: dict[str, set[str]], files: list[bytes]) -> None:
    array = await images.decode_images(files, PREPROCESSING, Limits())
    assert array.shape == (len(files), 32, 32, 3)
    assert threads["to_array"] == {CODEC}
    assert CODEC in threads["open_image"]


async def test_a_small_picture_takes_no_detour(threads: dict[str, set[str]]) -> None:
    await images.decode_images([noise(32, 32)], PREPROCESSING, Limits())
    assert threads == {"open_image": {"MainThread"}, "to_array": {"MainThread"}}


@pytest.mark.parametrize(("side", "thread"), [(64, "MainThread"), (256, CODEC)])
async def test_a_large_picture_is_encoded_apart(threads: dict[str, set[str]], side: int, thread: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    assert kind_of(await images.encoded(pixels)).name == "a PNG picture"
    assert threads["encode_png"] == {thread}


@pytest.mark.parametrize(
    ("content", "thread"),
    [
        (record(np.zeros(160_000, np.int16)), CODEC),
        (record(np.zeros(480_000, np.int16), "FLAC", 8000), CODEC),
        (record(np.zeros(4000, np.int16)), "MainThread"),
    ],
    ids=["much", "a minute of silence in a kilobyte", "little"],
)
async def test_a_recording_is_decoded_apart(threads: dict[str, set[str]], content: bytes, thread: str) -> None:
    await audio.decode_clips({"clip": Clip(content)}, 16_000, Limits())
    assert threads["decode"] == {thread}


async def test_many_rows_are_read_apart(threads: dict[str, set[str]]) -> None:
    rows = [SimpleNamespace(features=[1.0, 2.0])] * 500
    assert (await tensors.matrix_of(rows, ["a", "b"], Limits())).shape == (500, 2)
    assert threads["rows_to_matrix"] == {CODEC}


async def test_a_large_message_is_parsed_apart(threads: dict[str, set[str]]) -> None:
    async def answer(request: predict_pb2.PredictRequest, call: Call) -> predict_pb2.PredictResponse:
        return predict_pb2.PredictResponse(model=f"{len(request.rows)}")

    method = Method("S", "M", predict_pb2.PredictRequest, False, False, answer, "")
    endpoint = Endpoint(method, Gate(), limits=Limits())
    request = predict_pb2.PredictRequest(rows=[predict_pb2.FeatureRow(features=[0.5] * 100)] * 1000)
    message = request.SerializeToString()
    assert len(message) > INLINE_BYTES
    call = Call("S", "M", float("inf"), "id")
    assert predict_pb2.PredictResponse.FromString(await endpoint.unary(message, call)).model == "1000"
    assert threads["check_fields"] == {CODEC}


async def test_a_message_of_too_many_parts_is_refused_before_it_is_parsed() -> None:
    async def answer(request: predict_pb2.PredictRequest, call: Call) -> predict_pb2.PredictResponse:
        raise AssertionError("parsed")

    method = Method("S", "M", predict_pb2.PredictRequest, False, False, answer, "")
    endpoint = Endpoint(method, Gate(), limits=Limits())
    rows = next(f.number for f in predict_pb2.PredictRequest.DESCRIPTOR.fields if f.name == "rows")
    with pytest.raises(pipeline.StatusError, match="more than 100,000 fields"):
        await endpoint.unary(bytes([rows << 3 | 2, 0]) * 1_000_000, Call("S", "M", float("inf"), "id"))


async def test_a_loop_that_is_held_up_is_late_for_timers() -> None:
    def later_than(bound: float) -> float:
        return sum(
            sample.value if sample.labels["le"] == "+Inf" else -sample.value
            for family in metrics.LOOP_LAG.collect()
            for sample in family.samples
            if sample.name.endswith("_bucket") and sample.labels["le"] in (str(bound), "+Inf")
        )

    before, meter = later_than(0.05), asyncio.ensure_future(metrics.meter_lag(metrics.LAG_PERIOD_SECONDS))
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251 - what must not be, and is to be seen
    await asyncio.sleep(2 * metrics.LAG_PERIOD_SECONDS)  # due after the meter's timer
    meter.cancel()
    assert later_than(0.05) == before + 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_reducing_strip_by_strip_is_averaging(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 777, len(mode)), np.uint8)
    image = images.Image.fromarray(pixels if len(mode) > 1 else pixels[:, :, 0], mode)
    reduced = np.asarray(images._reduced(image, (32, 32))).astype(float)
    assert np.abs(reduced - np.asarray(image.reduce(6)).astype(float)).max() <= 1


def test_timers_of_an_idle_loop_are_rare() -> None:
    assert metrics.lag_period(busy=False) >= 10 * metrics.lag_period(busy=True)
