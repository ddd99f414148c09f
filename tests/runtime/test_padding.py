"""Graphs that run rows of different lengths together: each row's answer is the one that it has alone, and a config that
says so of another graph is refused."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from google.protobuf import text_format

from artifacts.versions import served_versions
from inference import model_config_pb2
from services.runtime.batches import Batching
from services.runtime.config import PADDING, ConfigError, GraphConfig, parse_config
from services.runtime.graph import Array, EngineError, Graph
from services.runtime.onnx_engine import OnnxEngine
from tests.conftest import EXPORTED

TOKENS = 1000  # ids below this are in every vocabulary
IN_8_BITS = {"spam_classifier_encoder", "text_encoder"}
LENGTHS = (1, 2, 3, 7, 8, 9, 31, 40, 64, 100, 255, 256)


def model_config(name: str, **parameters: object) -> bytes:
    """A committed model's config.pbtxt, with other parameters of padding; None takes one away."""
    message = model_config_pb2.ModelConfig()
    text_format.Parse((EXPORTED / name / "config.pbtxt").read_text(), message)
    for key, value in parameters.items():
        if value is None:
            del message.parameters[key]
        else:
            message.parameters[key].string_value = str(value)
    return text_format.MessageToString(message).encode()


def load(name: str, config: GraphConfig) -> Graph:
    content = EXPORTED / name / str(served_versions(EXPORTED / name)[0]) / "model.onnx"
    return OnnxEngine("cpu").load(config, 1, content.read_bytes())


PADDED = [path.parent.name for path in sorted(EXPORTED.glob("*/config.pbtxt")) if "padded_axis" in path.read_text()]


@pytest.fixture(scope="module", params=PADDED)
def graph(request: pytest.FixtureRequest) -> Graph:
    return load(request.param, parse_config(request.param, model_config(request.param)))


def rows(graph: Graph, length: int, count: int = 1) -> dict[str, Array]:
    """Inputs of that length: tokens where any length goes, else the length itself."""
    rng = np.random.default_rng(length)
    inputs: dict[str, Array] = {}
    for spec in graph.config.inputs:
        if spec.name == "segments":
            inputs[spec.name] = np.repeat(np.arange(length)[None] >= length // 2, count, axis=0).astype(np.int64)
        elif spec.name == "vectors":
            inputs[spec.name] = rng.normal(size=(count, length, spec.shape[1])).astype(np.float32)
        elif -1 in spec.shape:
            inputs[spec.name] = rng.integers(4, TOKENS, (count, length))
        else:
            inputs[spec.name] = np.full((count, 1), length)
    return inputs


def assert_same(graph: Graph, name: str, given: Array, expected: Array) -> None:
    """An output of a graph; in 8 bits a value between two levels may be rounded either way, by the order of a sum."""
    assert given.shape == expected.shape
    if graph.config.name in IN_8_BITS:
        assert np.linalg.norm(given - expected) <= 0.05 * np.linalg.norm(expected), name
    else:
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_texts_are_padded() -> None:
    assert set(PADDED) == {
        *("pos_tagger", "question_answerer", "slot_tagger", "spam_classifier_encoder"),
        *("style_rewriter", "text_encoder", "translator_en_zh", "word_vectors"),
    }


def test_a_padded_row_has_the_answer_that_it_has_alone(graph: Graph) -> None:
    names = [spec.name for spec in graph.config.inputs]
    batching = Batching(graph.config, graph.config.max_batch_size)
    requests = [rows(graph, length, count) for length, count in ((256, 1), (9, 2), (1, 1), (100, 1), (249, 1))]
    arrays = [tuple(request[name] for name in names) for request in requests]
    whole = graph.run(dict(zip(names, batching.joined(arrays), strict=True)))
    assert len(next(iter(whole.values()))) == 6
    sizes = [(len(of[0]), batching.length(of)) for of in arrays]
    for request, own in zip(requests, batching.parted(list(whole.values()), sizes), strict=True):
        for (name, alone), together in zip(graph.run(request).items(), own, strict=True):
            assert_same(graph, name, together, alone)


def test_answers_are_those_of_a_row_alone_however_they_are_batched(graph: Graph) -> None:
    requests = [rows(graph, length, count) for length in LENGTHS for count in (1, 3)]

    async def infer() -> list[dict[str, Array]]:
        return await asyncio.gather(*(graph.infer(request) for request in requests))

    for request, answers in zip(requests, asyncio.run(infer()), strict=True):
        for name, expected in graph.run(request).items():
            assert_same(graph, name, answers[name], expected)


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"pad_value": None}, "go together"),
        ({"padded_axis": 0}, "padded_axis must be a number from 1"),
        ({"padded_axis": 2}, "padded_axis is 2; dims of 'ids' must have -1 there"),
        ({"pad_value": "-1"}, "pad_value must be a number from 0"),
        ({"pad_multiple": 0}, "pad_multiple must be a number from 1"),
        ({"batch_budget": "many"}, "batch_budget must be a number from 1"),
    ],
)
def test_a_config_that_pads_wrongly_says_so(parameters: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_config("text_encoder", model_config("text_encoder", **parameters))


def test_a_value_that_an_input_cannot_hold_is_refused() -> None:
    parameters = dict.fromkeys(PADDING, 1) | {"pad_value": 2**15}
    with pytest.raises(ConfigError, match="'samples' \\(INT16\\) cannot hold"):
        parse_config("speaker_classifier", model_config("speaker_classifier", **parameters))


def test_a_graph_without_a_batch_is_not_padded() -> None:
    parameters = dict.fromkeys(PADDING, 1)
    with pytest.raises(ConfigError, match="with a batch and an input of variable length"):
        parse_config("few_shot_classifier", model_config("few_shot_classifier", **parameters))


def test_a_graph_whose_outputs_have_other_lengths_is_not_padded() -> None:
    name = "phoneme_classifier"  # of which an output has a frame for so many samples
    config = parse_config(name, model_config(name, **dict.fromkeys(PADDING, 1)))
    with pytest.raises(EngineError, match="axes of variable length have the same length"):
        load(name, config)
