"""Arrays in a device's memory are what numpy's would be. Here the device is the CPU, by the same steps as a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings

from artifacts.versions import served_versions
from services.errors import OutOfMemory
from services.generate.writing import Draws, Writing
from services.runtime import onnx_engine
from services.runtime.config import TensorSpec, parse_config
from services.runtime.decode import Decoder
from services.runtime.decode_batch import DecodeBatch, Member
from services.runtime.device_memory import FLOAT, DeviceArray, DeviceMemory, move_graph, take_graph
from services.runtime.graph import HOST, Graph, OutOfMemoryError
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.onnx_runner import CPU, OnnxRunner
from services.runtime.search import Prompt
from services.translate.beams import BeamSearch, Hypothesis
from tests.conftest import EXPORTED
from tests.runtime.fakes import FOREVER, graph_config

ROWS, HEADS, PLACES, SIZE = 5, 2, 7, 3
VOCABULARY = 5746  # of the poems


def create(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=[CPU])


@pytest.fixture(scope="module")
def memory() -> DeviceMemory:
    return DeviceMemory(create, "cpu")


@pytest.mark.parametrize("graph", [take_graph, move_graph])
def test_its_graphs_are_onnx(graph: Callable[[int], bytes]) -> None:
    model = onnx.load_from_string(graph(FLOAT))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 18


def test_a_new_array_is_zero(memory: DeviceMemory) -> None:
    for shape, axes, dtype in (((2, 3, 4), 2, np.float32), ((3, 4), 2, np.int64), ((2, 5, 1), 3, np.float16)):
        array = memory.zeros(shape, np.dtype(dtype), axes)
        assert (array.shape, array.dtype, len(array)) == (shape, dtype, shape[0])
        assert np.array_equal(np.asarray(array), np.zeros(shape, dtype))


rows = st.integers(0, ROWS - 1)
some_rows = st.lists(rows, min_size=1, max_size=ROWS, unique=True)
places = st.integers(1, PLACES)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_it_is_indexed_as_numpy_is(memory: DeviceMemory, data: st.DataObject) -> None:
    """Everything that a decoder does with its arrays, in any order."""
    shape = (ROWS, HEADS, PLACES, SIZE)
    random = np.random.default_rng(0)
    plain, device = np.zeros(shape, np.float32), memory.zeros(shape, np.dtype(np.float32), 3)

    def numbers(*size: int) -> Any:
        return random.normal(size=size).astype(np.float32)

    for step in data.draw(st.lists(st.sampled_from(["enter", "append", "follow", "free", "resize"]), max_size=8)):
        pair: list[Any] = [plain, device]
        if step == "enter":
            row, length = data.draw(rows), data.draw(places)
            value = numbers(HEADS, length, SIZE)
            for array in pair:
                array[row, slice(0, HEADS), slice(0, length), slice(0, SIZE)] = value
        elif step == "append":
            count = data.draw(st.integers(1, ROWS))
            units = np.array([(r * HEADS + h) * PLACES + data.draw(rows) for r in range(count) for h in range(HEADS)])
            new = numbers(count, HEADS, 1, SIZE)
            kept = memory.zeros(new.shape, new.dtype, 3)
            kept[()] = new
            for array, values in zip(pair, (new, data.draw(st.sampled_from([new, kept]))), strict=True):
                array.reshape(-1, SIZE)[units] = values.reshape(-1, SIZE)
        elif step == "follow":
            to = data.draw(some_rows)
            of = [data.draw(rows) for _ in to]
            filled = data.draw(places)
            for array in pair:
                array[to, :, :filled] = array[of, :, :filled]
        elif step == "free":
            row, last = data.draw(rows), data.draw(rows)
            for array in pair:
                array[row] = array[last]
        else:
            filled = data.draw(places)
            cut = [array[:, :, slice(filled)].copy() for array in pair]
            plain, device = np.zeros(shape, np.float32), memory.zeros(shape, np.dtype(np.float32), 3)
            for array, kept in zip((plain, device), cut, strict=True):
                array[tuple(slice(0, size) for size in kept.shape)] = kept
    assert np.array_equal(np.asarray(device), plain)
    some = data.draw(some_rows)
    assert np.array_equal(np.asarray(device[some].copy()), plain[some])
    assert np.array_equal(np.asarray(device[:3]), plain[:3])


def test_what_does_not_fit_is_refused(memory: DeviceMemory) -> None:
    array = memory.zeros((2, 3, 4), np.dtype(np.float32), 2)
    for value in (np.zeros((3, 5), np.float32), np.zeros((2, 4), np.float32)):
        with pytest.raises(ValueError, match=r"units of shape \(\d,\) are not 3 of shape \(4,\)"):
            array[1] = value
    assert not np.asarray(array).any()


class Full:
    """A session of a device without memory."""

    def io_binding(self) -> None:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")


def test_a_device_without_memory_for_a_search_refuses_it_alone() -> None:
    full = DeviceMemory(lambda _: Full(), "cuda")
    with pytest.raises(OutOfMemoryError):
        full.zeros((1, 1), np.dtype(np.float32), 1)
    past = TensorSpec("past", "FP32", (1, -1, 1))
    config = graph_config(4, inputs=(TensorSpec("length", "INT64", (1,)), past), outputs=())
    search = Writing(None, [1], Draws(1.0, 0, 1.0, 1.0, 0, True), 2, 0, 1)  # type: ignore[arg-type]
    search.past, search.constants = {"past": np.zeros((1, 2, 1), np.float32)}, {}
    error = DecodeBatch(config, full).enter(Member(search=search))
    assert isinstance(error, OutOfMemory)
    assert error.retry_after


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], Graph]:
    """Loads a committed graph whose arrays lie in the process's memory, or in that of a device."""
    engine = OnnxEngine("cpu")

    def load(name: str, on_device: bool) -> Graph:
        memory = DeviceMemory(engine._helper, "cpu") if on_device else None
        runner = lambda session, provider, **_: OnnxRunner(session, provider, on_device, memory)  # noqa: E731
        monkeypatch.setattr(onnx_engine, "OnnxRunner", runner)
        directory = EXPORTED / name
        config = parse_config(name, (directory / "config.pbtxt").read_bytes())
        content = directory / str(served_versions(directory)[0]) / "model.onnx"
        return engine.load(config, 1, content.read_bytes())

    return load


def _bits(hypothesis: Hypothesis) -> tuple[tuple[int, ...], float, list[bytes]]:
    return hypothesis.tokens, hypothesis.log_probability, [weights.tobytes() for weights in hypothesis.attention]


def test_beams_are_the_same_on_a_device(load: Callable[[str, bool], Graph]) -> None:
    """Searches of one to eight beams, of short and long sentences: rows come, go and change places."""
    encoder = load("translator_en_zh", False)
    random = np.random.default_rng(1)
    sentences = [random.integers(4, 1000, length).tolist() for length in (3, 40, 9, 17, 5, 60)]
    searched = []
    for on_device in (False, True):
        step = load("translator_en_zh_step", on_device)
        assert (step.memory is HOST) != on_device
        searches = [
            BeamSearch(
                Prompt(encoder, {"tokens": np.array([ids]), "length": np.array([[len(ids)]])}),
                start=2,
                end=3,
                size=size,
                length_penalty=1.0,
                longest=12 + 8 * size,
                attention=True,
            )
            for ids, size in zip(sentences, (1, 4, 2, 8, 1, 3), strict=True)
        ]
        asyncio.run(Decoder(step).finish(searches, FOREVER, 0))
        searched.append([_bits(h) for s in searches for h in s.over])
    assert searched[0] == searched[1]
    assert max(len(tokens) for tokens, _, _ in searched[0]) > 16  # the arrays have grown


def test_poems_are_the_same_on_a_device(load: Callable[[str, bool], Graph]) -> None:
    """What a prompt leaves goes to the device, and what a step adds stays there."""
    poems = []
    for on_device in (False, True):
        graph = load("poem_generator", on_device)
        writings = [
            Writing(graph, list(range(5, 5 + tokens)), Draws(1.0, 0, 0.9, 1.1, seed, False), VOCABULARY, 3, 20 + seed)
            for seed, tokens in enumerate((1, 30, 4, 4, 12))
        ]
        asyncio.run(Decoder(graph).finish(writings, FOREVER, 0))
        poems.append([(writing.tokens, writing.log_probabilities) for writing in writings])
    assert poems[0] == poems[1]


def test_only_what_belongs_to_the_past_stays_on_a_device(load: Callable[[str, bool], Graph]) -> None:
    graph = load("poem_generator", True)
    inputs: dict[str, Any] = {
        spec.name: np.ones((2, *(16 if d < 0 and spec.name != "tokens" else abs(d) for d in spec.shape)), spec.dtype)
        for spec in graph.config.inputs
    }
    assert all(isinstance(value, np.ndarray) for value in graph.run(inputs).values())
    key = graph.memory.zeros(inputs["key_0"].shape, np.dtype(np.float32), 3)
    key[()] = inputs["key_0"]
    outputs = graph.run({**inputs, "key_0": key})
    assert [name for name, value in outputs.items() if isinstance(value, DeviceArray)] == ["new_key_0"]
    expected = graph.run(inputs)
    for name, value in outputs.items():
        assert np.array_equal(np.asarray(value), expected[name])
