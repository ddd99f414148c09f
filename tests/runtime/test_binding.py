"""Runs whose inputs and outputs are bound to a device's memory, which here is the CPU's, give the same bits."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from benchmarks.device import graph_file, inputs_of
from services.runtime import onnx_engine
from services.runtime.config import GraphConfig, parse_config
from services.runtime.graph import EngineError, InputError
from services.runtime.onnx_engine import OnnxEngine
from services.runtime.onnx_runner import CPU, CUDA, OnnxRunner
from tests.conftest import EXPORTED

GRAPHS = [path.parent.name for path in sorted(EXPORTED.glob("*/config.pbtxt"))]


def config_of(name: str) -> GraphConfig:
    return parse_config(name, (EXPORTED / name / "config.pbtxt").read_bytes())


def session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph_file(name), options, providers=[CPU])


@pytest.mark.parametrize("name", GRAPHS)
def test_a_bound_run_gives_the_same_bits(name: str) -> None:
    config, shared = config_of(name), session(name)
    plain, bound = OnnxRunner(shared, CPU), OnnxRunner(shared, CPU, bound=True)
    names = [spec.name for spec in config.outputs]
    inputs = inputs_of(config, 2 if config.max_batch_size else 0)
    expected = plain.run(names, inputs, plain.options())
    outputs = bound.run(names, inputs, bound.options())
    assert [(o.dtype, o.shape, o.tobytes()) for o in outputs] == [(e.dtype, e.shape, e.tobytes()) for e in expected]
    assert all(output.flags.writeable for output in outputs)
    for output, wanted in zip(outputs, expected, strict=True):  # its own memory, which the next run leaves alone
        bound.run(names, {key: np.zeros_like(value) for key, value in inputs.items()}, bound.options())
        assert output.tobytes() == wanted.tobytes()
        break


def test_a_part_of_a_larger_array_is_bound() -> None:
    runner = OnnxRunner(session("lunar_lander"), CPU, bound=True)
    config = config_of("lunar_lander")
    inputs = inputs_of(config, 12)
    names = [spec.name for spec in config.outputs]
    whole = runner.run(names, inputs, runner.options())
    for part in (slice(2, 7), slice(0, 12, 3), [5, 1]):
        outputs = runner.run(names, {key: value[part] for key, value in inputs.items()}, runner.options())
        for output, all_rows in zip(outputs, whole, strict=True):
            np.testing.assert_allclose(output, all_rows[part], rtol=1e-5, atol=1e-6)


def test_a_bound_run_fails_as_another_does() -> None:
    runner = OnnxRunner(session("lunar_lander"), CPU, bound=True)
    inputs = inputs_of(config_of("lunar_lander"), 1)
    with pytest.raises(InputError):
        runner.run(["action"], {**inputs, "noise": np.zeros((1, 5), np.float32)}, runner.options())
    ended = runner.options()
    ended.terminate = True
    with pytest.raises(EngineError):
        runner.run(["action"], inputs, ended)
    assert len(runner.run(["action"], inputs, runner.options())) == 1


@pytest.mark.parametrize(("memory", "limit"), [(0, {}), (2**30, {"gpu_mem_limit": "1073741824"})])
def test_a_session_on_a_gpu_is_told_its_limit(
    monkeypatch: pytest.MonkeyPatch, memory: int, limit: dict[str, str]
) -> None:
    given: list[dict[str, str]] = []

    def create(content: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        assert [name for name, _ in providers] == [CUDA, CPU]
        given.append(providers[0][1])
        raise RuntimeError("there is no GPU")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnx_engine.onnxruntime, "InferenceSession", create)
    with pytest.raises(EngineError, match="there is no GPU"):
        OnnxEngine("cuda", gpu_memory_bytes=memory).load(config_of("lunar_lander"), 1, b"")
    (options,) = given
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert {key: value for key, value in options.items() if key == "gpu_mem_limit"} == limit
